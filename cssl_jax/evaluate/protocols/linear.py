"""Linear probe: multinomial logistic regression on frozen features."""

import statistics
from collections.abc import Callable

import numpy as np
import scipy.special

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, classification, top1_top5
from cssl_jax.evaluate.scores import LinearScores
from cssl_jax.evaluate.solvers.logistic import fit_all

# 45 penalties from 1e-6 to 1e5, four per decade (arXiv 2002.05709, B.8.1).
L2_VALUES = tuple(10.0 ** (-6 + e / 4) for e in range(45))
HELD_OUT = 0.2  # fraction of the training rows on which the penalty is chosen


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    l2_values: tuple[float, ...] = L2_VALUES,
    seed: int = 0,
    seeds: int = 1,
) -> LinearScores:
    """Fits a linear classifier on training features and evaluates it on test features.

    Features are standardised by the training rows. All penalties are fitted in one sweep on four
    fifths of the training rows. The penalty with the lowest cross entropy on the held-out fifth is
    fitted again on all training rows. The test rows affect neither the penalty nor the fit.

    Args:
        train_features: Features, float [N, D].
        train_labels: Class per training row, int [N] in [0, num_classes).
        test_features: Features, float [M, D].
        test_labels: Class per test row, int [M] in [0, num_classes).
        num_classes: Number of classes C.
        l2_values: Penalties to choose from, each at least 0.
        seed: Seed of the first held-out fifth.
        seeds: Number of held-out fifths, drawn with the seeds ``seed``, ``seed`` + 1, ... The
            problem is convex: nothing else depends on a seed.

    Returns:
        ``top1`` and ``top5``, fractions in [0, 1], are means over the seeds, ``top1_std`` and
        ``top5_std`` their standard deviations (0 for one seed). ``l2``, ``per_class`` and
        ``confusion`` (see ``accuracy.classification``) are those of the first seed, and
        ``l2_by_seed`` has the penalty per seed.

    Raises:
        UserError: The features or labels are invalid, there are fewer than 2 training rows, no
            penalty or a negative one, or ``seeds`` is below 1.

    Example:
        >>> x = np.float32([[-1], [-2], [-3], [1], [2], [3]])
        >>> labels = np.array([0, 0, 0, 1, 1, 1])
        >>> found = linear_probe(x, labels, x, labels, num_classes=2, l2_values=(1e-3,))
        >>> found.top1, found.confusion
        (1.0, [[3, 0], [0, 3]])
    """
    labels = checked_labels(train_labels, train_features, num_classes=num_classes, name="training")
    test_labels = checked_labels(test_labels, test_features, num_classes=num_classes, name="test")
    if len(labels) < 2:
        raise UserError(
            "1 training row; give at least two: one to fit on, one to choose the penalty on"
        )
    if not l2_values or not min(l2_values) >= 0:
        raise UserError(f"l2_values are {l2_values}; give at least one penalty, none below 0")
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give at least 1")
    if test_features.shape[1] != train_features.shape[1]:
        raise UserError(
            f"test features are {test_features.shape[1]} wide, training features "
            f"{train_features.shape[1]}; give both from one encoder"
        )
    standardise = standardiser(train_features)
    x, x_test = standardise(train_features), standardise(test_features)
    penalties = [
        _seeded_penalty(x, labels, num_classes, tuple(l2_values), seed + number)
        for number in range(seeds)
    ]
    kernels, biases = fit_all(x, labels, num_classes=num_classes, l2_values=tuple(penalties))
    scores = [x_test @ kernel.T + bias for kernel, bias in zip(kernels, biases, strict=True)]
    first = classification(scores[0], test_labels)
    accuracies = [first, *(top1_top5(seed_scores, test_labels) for seed_scores in scores[1:])]
    top1, top5 = ([accuracy[name] for accuracy in accuracies] for name in ("top1", "top5"))
    return LinearScores(
        top1=statistics.fmean(top1),
        top5=statistics.fmean(top5),
        top1_std=statistics.stdev(top1) if seeds > 1 else 0.0,
        top5_std=statistics.stdev(top5) if seeds > 1 else 0.0,
        seeds=seeds,
        l2=penalties[0],
        l2_by_seed=penalties,
        per_class=first.per_class,
        confusion=first.confusion,
    )


def _seeded_penalty(
    x: np.ndarray, labels: np.ndarray, num_classes: int, l2_values: tuple[float, ...], seed: int
) -> float:
    """The penalty with the lowest cross entropy on the fifth of the rows drawn with this seed."""
    if len(l2_values) == 1:
        return float(l2_values[0])
    return choose_penalty(x, labels, num_classes, l2_values, held_out_mask(len(x), seed))


def held_out_mask(size: int, seed: int) -> np.ndarray:
    """Mask bool [size] of the held-out rows: a fifth drawn with the seed, at least one row."""
    order = permute(np.arange(size), epoch_key(seed, 0), size)
    held_out = np.zeros(size, bool)
    held_out[order[: max(1, round(size * HELD_OUT))]] = True
    return held_out


def choose_penalty(
    x: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    l2_values: tuple[float, ...],
    held_out: np.ndarray,
) -> float:
    """The penalty with the lowest cross entropy on held-out rows, after a fit on the others.

    Args:
        x: Standardised features, float [N, D].
        labels: Class per row, int [N] in [0, num_classes).
        num_classes: Number of classes C.
        l2_values: Penalties to choose from.
        held_out: Mask bool [N] of the rows that the fit excludes.
    """
    # Held-out rows stay in the batch with weight 0, so that all fits have one shape and compile
    # once.
    row_weights = np.where(held_out, np.float32(0), np.float32(1))
    kernels, biases = fit_all(
        x, labels, num_classes=num_classes, l2_values=l2_values, row_weights=row_weights
    )
    losses = [
        _cross_entropy(x[held_out] @ kernel.T + bias, labels[held_out])
        for kernel, bias in zip(kernels, biases, strict=True)
    ]
    return float(l2_values[int(np.argmin(losses))])


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that standardises rows [N, D] to float32 by the moments of ``features``.

    Args:
        features: Features, float [M, D], whose mean and standard deviation per column are used.
    """
    mean, scale = standardisation(features)
    return lambda x: ((x - mean) * scale).astype(np.float32)


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation per column of [N, D], both float64 [D].

    The second is 0 for a constant column.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64)
    # A column that varies by less than float32 resolves is constant. It becomes 0, since scaling it
    # to unit variance would only amplify rounding noise.
    varies = std > np.finfo(np.float32).eps * np.abs(features).max(axis=0)
    return mean, np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)


def _cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy in nats of scores [N, C] for labels int [N]."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return float(np.mean(scipy.special.logsumexp(scores, axis=1) - own))
