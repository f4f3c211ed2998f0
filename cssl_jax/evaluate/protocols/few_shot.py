"""Few labels a class: logistic regression on a handful of rows, drawn many times."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, top1_top5
from cssl_jax.evaluate.solvers import lbfgs
from cssl_jax.losses.core.similarity import unit_length

_TOGETHER = 2**26  # floats of drawn features that are fitted at once
_HIGHEST = jax.lax.Precision.HIGHEST


def few_shot(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on all test rows of classifiers that saw k training rows a class.

    Logistic regression on unit-length features with penalty 1 / 2 ||W||^2 beside the sum of the
    cross entropies, as in arXiv 2003.11539 (scikit-learn's C = 1): nothing is chosen, since k
    labels leave nothing to choose on. Draws are nested: that of k rows a class is a part of that of
    more.

    Args:
        train_features: [N, D].
        train_labels: int [N].
        test_features: [M, D].
        test_labels: int [M].
        num_classes: C.
        shots: Numbers of labels a class; one that a class of the training rows does not have is
            left out.
        draws: How often rows are drawn, at least 2.
        seed: Of the draws.

    Returns:
        {"shots": {"K": {"top1": mean over draws, "ci95": half the width of its 95 % confidence
        interval by Student's t, "std", "top5"}}, "draws", "left_out": [K], "smallest_class"}.

    Raises:
        UserError: Features or labels do not fit, or a number is too small.
    """
    labels = checked_labels(train_labels, train_features, num_classes=num_classes, name="training")
    test_labels = checked_labels(test_labels, test_features, num_classes=num_classes, name="test")
    if draws < 2:
        raise UserError(f"draws is {draws}; an interval needs at least 2")
    if not shots or min(shots) < 1:
        raise UserError(f"shots are {tuple(shots)}; give numbers of labels a class from 1 on")
    orders = _orders(labels, draws, seed)
    smallest = min(order.shape[1] for order in orders)
    x = np.asarray(unit_length(jnp.asarray(train_features)))
    tested = np.asarray(unit_length(jnp.asarray(test_features)))
    found: dict[str, Any] = {}
    for k in sorted(set(shots)):
        if k > smallest:
            continue
        rows = np.concatenate([order[:, :k] for order in orders], axis=1)  # [draws, classes x k]
        tops = _accuracies(x, labels, rows, tested, test_labels, num_classes)
        deviation = tops.std(axis=0, ddof=1)
        width = scipy.stats.t.ppf(0.975, draws - 1) / np.sqrt(draws)
        found[str(k)] = {
            "top1": float(tops[:, 0].mean()),
            "ci95": float(width * deviation[0]),
            "std": float(deviation[0]),
            "top5": float(tops[:, 1].mean()),
        }
    left_out = sorted(k for k in set(shots) if k > smallest)
    return {"shots": found, "draws": draws, "left_out": left_out, "smallest_class": smallest}


def _orders(labels: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """Rows of every class that has some, shuffled anew a draw: int [draws, rows] a class."""
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [random.permuted(np.tile(rows, (draws, 1)), axis=1) for rows in classes]


def _accuracies(
    x: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    tested: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """(top-1, top-5) of every draw, [draws, 2]."""
    together = max(1, _TOGETHER // (rows.shape[1] * x.shape[1]))
    tops = []
    for start in range(0, len(rows), together):
        part = rows[start : start + together]
        kernels, biases = _fit(x[part], labels[part], num_classes=num_classes)
        for kernel, bias in zip(np.asarray(kernels), np.asarray(biases), strict=True):
            found = top1_top5(tested @ kernel.T + bias, test_labels)
            tops.append((found["top1"], found["top5"]))
    return np.array(tops)


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(x: jax.Array, labels: jax.Array, *, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Weights [B, C, D] and biases [B, C] for rows [B, n, D] of B draws."""
    draws, count, width = x.shape
    own = jax.nn.one_hot(labels, num_classes, axis=1, dtype=x.dtype)  # [B, C, n]

    def split(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = points.reshape(draws, num_classes, width + 1)
        return both[..., :-1], both[..., -1]

    def joined(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.append(kernel, bias[..., None], axis=-1).reshape(draws, -1)

    def evaluate(points: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernel, bias = split(points)
        scores = jnp.einsum("bcd,bnd->bcn", kernel, x, precision=_HIGHEST) + bias[..., None]
        total = jax.nn.logsumexp(scores, axis=1)
        residuals = jnp.exp(scores - total[:, None]) - own
        value = jnp.sum(total - jnp.sum(scores * own, axis=1), axis=1)
        value = value + 0.5 * jnp.sum(jnp.square(kernel), axis=(1, 2))
        gradient = jnp.einsum("bcn,bnd->bcd", residuals, x, precision=_HIGHEST) + kernel
        return value, joined(gradient, residuals.sum(axis=2)), jnp.ones(draws, x.dtype)

    def precondition(vectors: jax.Array, _: jax.Array) -> jax.Array:
        # The penalty's share of the Hessian; for the bias, which has none, the cross entropy's.
        kernel, bias = split(vectors)
        return joined(kernel, bias * num_classes / count)

    start = jnp.zeros((draws, num_classes * (width + 1)), x.dtype)
    problems = evaluate, precondition
    state = lbfgs.advance(
        *problems,
        lbfgs.begin(*problems, start),
        tolerance=0.0,
        precision=1e-6,
        max_trials=200,
        enough=0,
    )
    return split(state.point)
