"""Figures of classification, as shares in [0, 1], and the check of what they are made from."""

from typing import Any

import numpy as np

from cssl_jax.errors import UserError

CONFUSION_LIMIT = 256  # classes
TOP5_CLASSES = 6  # from which on top-5 accuracy is shown: of five classes or fewer it is 100 %


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows, in [0, 1], that ``top_k_hits`` finds right."""
    return float(np.mean(top_k_hits(scores, labels, k)))


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Which rows have their label among the k highest scores.

    Args:
        scores: float [N, classes], higher is likelier; of equal scores the lower class is first.
            A row whose own class scores NaN is a miss, so that a broken encoder does not shine.
        labels: int [N] in [0, classes).
        k: With k at or above the number of classes every row without NaN is a hit.

    Returns:
        bool [N].
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    later = np.arange(scores.shape[1])[None, :] > labels[:, None]
    # Counting what the label beats, not what beats it: every comparison with NaN is false.
    beaten = np.sum((own > scores) | ((own == scores) & later), axis=1)
    return (beaten >= scores.shape[1] - k) & ~np.isnan(own[:, 0])


def top1_top5(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"top1", "top5"} of scores [N, classes] for labels [N]."""
    return {f"top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}


def shows_top5(num_classes: int) -> bool:
    """Whether top-5 accuracy says anything; 0 classes: their number is not known."""
    return not 0 < num_classes < TOP5_CLASSES


def classification(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What single classes score, ready for JSON.

    Args:
        scores: float [N, classes]; of equal scores the lower class is predicted, of NaN none.
        labels: int [N] in [0, classes).

    Returns:
        {"per_class": share of each class's rows that are right, None for a class without rows;
        "confusion": counts [classes][classes], a row a true class, a column a prediction}; of more
        than ``CONFUSION_LIMIT`` classes no confusion, which nobody reads and no file should hold.
    """
    classes = scores.shape[1]
    known = ~np.isnan(scores).any(axis=1)
    predicted = np.argmax(scores[known], axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[known], predicted), 1)
    rows = np.bincount(labels, minlength=classes)
    right = np.diagonal(confusion)
    figures: dict[str, Any] = {
        "per_class": [
            float(hits / count) if count else None for hits, count in zip(right, rows, strict=True)
        ]
    }
    return figures | ({"confusion": confusion.tolist()} if classes <= CONFUSION_LIMIT else {})


def checked_labels(
    labels: np.ndarray, features: np.ndarray, *, num_classes: int, name: str
) -> np.ndarray:
    """``labels`` as int32 [N], after a check that they fit ``features`` [N, D].

    Args:
        labels: int [N] in [0, num_classes).
        features: [N, D] with at least one row.
        num_classes: Number of classes.
        name: What the rows are, for the message.

    Raises:
        UserError: A shape, the type or a class does not fit.
    """
    labels, shape = np.asarray(labels), np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{name} features have shape {shape}; give [N, D] with at least one row")
    if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{name} labels are {labels.dtype} {labels.shape} beside {shape[0]} features; "
            "give one integer a row"
        )
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise UserError(
            f"{name} label {outside[0]} is outside [0, {num_classes}); number the classes from 0 "
            "and give num_classes one more than the largest"
        )
    return labels.astype(np.int32)
