"""The linear probe: multinomial logistic regression on frozen features."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, classification, top1_top5
from cssl_jax.evaluate.solvers.logistic import fit_all

# 45 values from 1e-6 to 1e5, four a decade (arXiv 2002.05709, B.8.1).
L2_VALUES = tuple(10.0 ** (-6 + e / 4) for e in range(45))
HELD_OUT = 0.2  # of the training rows, on which the penalty is chosen


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
) -> dict[str, Any]:
    """Fits a linear classifier on training features and reports on test features.

    Features are standardised by the training rows. All penalties are fitted together on four fifths
    of the training rows; the one with the lowest cross entropy on the held-out fifth is fitted
    again on all of them. Test rows choose nothing.

    Args:
        train_features: [N, D].
        train_labels: int [N].
        test_features: [M, D].
        test_labels: int [M].
        num_classes: C.
        l2_values: Penalties to choose from.
        seed: Of the first held-out fifth.
        seeds: Held-out fifths that are drawn, by ``seed``, ``seed`` + 1, ... The problem is convex:
            nothing else depends on a seed.

    Returns:
        {"top1", "top5"} as shares in [0, 1], means over the seeds, with "top1_std" and "top5_std"
        (0 of one seed), and "seeds"; of the first seed the chosen "l2", "per_class" and "confusion"
        as ``accuracy.classification`` gives them; "l2_by_seed".

    Raises:
        UserError: Features or labels do not fit, or there is nothing to choose from.
    """
    labels = checked_labels(train_labels, train_features, num_classes=num_classes, name="training")
    test_labels = checked_labels(test_labels, test_features, num_classes=num_classes, name="test")
    if len(labels) < 2:
        raise UserError(
            "1 training row; give at least two, to fit on one and choose the penalty on the other"
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
    chosen = [
        _choose(x, labels, num_classes, tuple(l2_values), seed + number) for number in range(seeds)
    ]
    kernels, biases = fit_all(x, labels, num_classes=num_classes, l2_values=tuple(chosen))
    scores = [x_test @ kernel.T + bias for kernel, bias in zip(kernels, biases, strict=True)]
    tops = [top1_top5(of_seed, test_labels) for of_seed in scores]
    figures: dict[str, Any] = {}
    for name in ("top1", "top5"):
        column = [top[name] for top in tops]
        figures[name] = statistics.fmean(column)
        figures[f"{name}_std"] = statistics.stdev(column) if seeds > 1 else 0.0
    return {
        **figures,
        "seeds": seeds,
        "l2": chosen[0],
        "l2_by_seed": chosen,
        **classification(scores[0], test_labels),
    }


def _choose(
    x: np.ndarray, labels: np.ndarray, num_classes: int, l2_values: tuple[float, ...], seed: int
) -> float:
    """The penalty with the lowest cross entropy on a fifth of the rows, fitted on the others."""
    if len(l2_values) == 1:
        return float(l2_values[0])
    return choose_penalty(x, labels, num_classes, l2_values, held_out_part(len(x), seed))


def held_out_part(size: int, seed: int) -> np.ndarray:
    """Bool [size]: a keyed fifth, at least one."""
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
    """The penalty with the lowest cross entropy on the rows held out (bool [N]) of x [N, D]."""
    # Held-out rows take part with weight 0, so that all fits have one shape and compile once.
    fitted = np.where(held_out, np.float32(0), np.float32(1))
    kernels, biases = fit_all(
        x, labels, num_classes=num_classes, l2_values=l2_values, row_weights=fitted
    )
    losses = [
        _cross_entropy(x[held_out] @ kernel.T + bias, labels[held_out])
        for kernel, bias in zip(kernels, biases, strict=True)
    ]
    return float(l2_values[int(np.argmin(losses))])


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows [N, D] -> float32 [N, D], by the mean and standard deviation of ``features``."""
    mean, scale = standardisation(features)
    return lambda x: ((x - mean) * scale).astype(np.float32)


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation of the columns of [N, D], float64 [D]; 0 of a constant."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64)
    # What varies by less than float32 can tell is constant: it is 0, not rounding noise blown up.
    varies = std > np.finfo(np.float32).eps * np.abs(features).max(axis=0)
    return mean, np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)


def _cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return float(np.mean(scipy.special.logsumexp(scores, axis=1) - own))
