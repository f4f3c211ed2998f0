"""Classification metrics as fractions in [0, 1], and the check of their labels."""

import chex
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.scores import Accuracy, ClassAccuracy

CONFUSION_LIMIT = 256  # maximum number of classes for which a confusion matrix is computed
TOP5_CLASSES = 6  # minimum number of classes for top-5 accuracy: with five it is always 100 %


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Top-k accuracy, the fraction in [0, 1] of rows that ``top_k_hits`` marks as hits.

    Args:
        scores: Scores per class, float [N, classes]; higher is more likely.
        labels: Class per row, int [N] in [0, classes).
        k: Number of highest scores.
    """
    return float(np.mean(top_k_hits(scores, labels, k)))


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Marks the rows whose label is among the k highest scores.

    Args:
        scores: Scores per class, float [N, classes]; higher is more likely. Of equal scores the
            lower class ranks first. A row whose label has a NaN score is a miss, so that an encoder
            with non-finite features does not score.
        labels: Class per row, int [N] in [0, classes).
        k: Number of highest scores. If k is at least the number of classes, every row without NaN
            is a hit.

    Returns:
        bool [N], True for a hit.
    """
    # take_along_axis would accept fewer labels than rows.
    chex.assert_rank(scores, 2)
    chex.assert_shape(labels, scores.shape[:1])
    label_score = np.take_along_axis(scores, labels[:, None], axis=1)
    is_higher_class = np.arange(scores.shape[1])[None, :] > labels[:, None]
    # This counts the classes that the label beats, not those that beat it: every comparison with
    # NaN is false, so that a NaN score must not count in favour of the label.
    beaten = np.sum((label_score > scores) | ((label_score == scores) & is_higher_class), axis=1)
    hits: np.ndarray = (beaten >= scores.shape[1] - k) & ~np.isnan(label_score[:, 0])
    return hits


def top1_top5(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Accuracies in [0, 1] of scores [N, classes] for labels int [N]."""
    return Accuracy(top1=top_k_accuracy(scores, labels, 1), top5=top_k_accuracy(scores, labels, 5))


def shows_top5(num_classes: int) -> bool:
    """Whether top-5 accuracy can be below 100 %; 0 classes: their number is unknown, so True."""
    return not 0 < num_classes < TOP5_CLASSES


def classification(scores: np.ndarray, labels: np.ndarray) -> ClassAccuracy:
    """Accuracies, accuracy per class and confusion matrix.

    Args:
        scores: Scores per class, float [N, classes]. Of equal scores the lower class is predicted.
            A row with NaN has no prediction.
        labels: Class per row, int [N] in [0, classes).

    Returns:
        ``top1`` and ``top5``; ``per_class``, the fraction of correct rows per class, None for a
        class without rows; ``confusion``, counts [classes][classes], one row per true class and one
        column per predicted class. ``confusion`` is None above ``CONFUSION_LIMIT`` classes, where
        it would be too large to read and to store.
    """
    chex.assert_rank(scores, 2)
    chex.assert_shape(labels, scores.shape[:1])
    classes = scores.shape[1]
    has_prediction = ~np.isnan(scores).any(axis=1)
    predicted = np.argmax(scores[has_prediction], axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[has_prediction], predicted), 1)
    totals = np.bincount(labels, minlength=classes)
    correct = np.diagonal(confusion)
    return ClassAccuracy(
        **top1_top5(scores, labels),
        per_class=[
            float(hits / total) if total else None
            for hits, total in zip(correct, totals, strict=True)
        ],
        confusion=confusion.tolist() if classes <= CONFUSION_LIMIT else None,
    )


def checked_labels(
    labels: np.ndarray, features: np.ndarray, *, num_classes: int, name: str
) -> np.ndarray:
    """Checks labels against features and returns them as int32 [N].

    Args:
        labels: Class per row, int [N] in [0, num_classes).
        features: Features, float [N, D] with at least one row.
        num_classes: Number of classes.
        name: Kind of rows for the error message, such as "training".

    Raises:
        UserError: A shape, the dtype or a class is invalid.
    """
    labels, shape = np.asarray(labels), np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{name} features have shape {shape}; give [N, D] with at least one row")
    if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{name} labels are {labels.dtype} {labels.shape} for {shape[0]} feature rows; "
            "give one integer per row"
        )
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(
            f"{name} label {outside[0]} is outside [0, {num_classes}); number the classes from 0 "
            "and give num_classes one more than the largest"
        )
    return labels.astype(np.int32)
