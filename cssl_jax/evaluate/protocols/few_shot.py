"""Few-shot probe: logistic regression on a few labelled rows per class, over many draws."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, top1_top5
from cssl_jax.evaluate.scores import FewShotScores, Shot
from cssl_jax.evaluate.solvers import lbfgs
from cssl_jax.losses.core.similarity import normalize_rows

_BATCH_FLOATS = 2**26  # maximum number of floats of drawn features that are fitted at once
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
) -> FewShotScores:
    """Accuracy on all test rows of classifiers fitted on k training rows per class.

    The classifier is a logistic regression on unit-norm features. Its objective is the sum of the
    cross entropies plus 1 / 2 ||W||^2, as in arXiv 2003.11539 (scikit-learn's C = 1). The penalty
    is fixed, since k labels leave no rows to choose it on. Draws are nested: a draw of k rows per
    class is a subset of the same draw with more rows per class.

    Args:
        train_features: Features, float [N, D].
        train_labels: Class per training row, int [N] in [0, num_classes).
        test_features: Features, float [M, D].
        test_labels: Class per test row, int [M] in [0, num_classes).
        num_classes: Number of classes C.
        shots: Numbers of labels per class. A number above the size of the smallest training class
            is skipped.
        draws: Number of random draws of training rows, at least 2.
        seed: Seed of the draws.

    Returns:
        ``shots`` has per number of labels the means of top-1 and top-5 over the draws, half the
        width of the 95 % confidence interval of top-1 by Student's t, and its standard deviation.
        ``left_out`` has the skipped numbers. Accuracies are fractions in [0, 1].

    Raises:
        UserError: The features or labels are invalid, or ``draws`` or a shot count is too small.

    Example:
        >>> x = np.float32([[1, 0], [1, 0], [0, 1], [0, 1]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> found = few_shot(x, labels, x, labels, num_classes=2, shots=(1, 5), draws=2)
        >>> found.shots["1"].top1, found.left_out
        (1.0, [5])
    """
    labels = checked_labels(train_labels, train_features, num_classes=num_classes, name="training")
    test_labels = checked_labels(test_labels, test_features, num_classes=num_classes, name="test")
    if draws < 2:
        raise UserError(f"draws is {draws}; a confidence interval needs at least 2")
    if not shots or min(shots) < 1:
        raise UserError(f"shots are {tuple(shots)}; give numbers of labels per class, at least 1")
    shuffled = _shuffle_classes(labels, draws, seed)
    smallest = min(order.shape[1] for order in shuffled)
    x = np.asarray(normalize_rows(jnp.asarray(train_features)))
    x_test = np.asarray(normalize_rows(jnp.asarray(test_features)))
    metrics: dict[str, Shot] = {}
    for k in sorted(set(shots)):
        if k > smallest:
            continue
        rows = np.concatenate([order[:, :k] for order in shuffled], axis=1)  # [draws, classes x k]
        accuracies = _accuracies(x, labels, rows, x_test, test_labels, num_classes)
        deviation = accuracies.std(axis=0, ddof=1)
        # Student's t, from scipy.special: scipy.stats would take a third of the command's start.
        width = scipy.special.stdtrit(draws - 1, 0.975) / np.sqrt(draws)
        metrics[str(k)] = Shot(
            top1=float(accuracies[:, 0].mean()),
            ci95=float(width * deviation[0]),
            std=float(deviation[0]),
            top5=float(accuracies[:, 1].mean()),
        )
    skipped = sorted(k for k in set(shots) if k > smallest)
    return FewShotScores(shots=metrics, draws=draws, left_out=skipped, smallest_class=int(smallest))


def _shuffle_classes(labels: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """Row numbers int [draws, rows] per class that occurs, shuffled independently per draw."""
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [random.permuted(np.tile(rows, (draws, 1)), axis=1) for rows in classes]


def _accuracies(
    x: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    x_test: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Top-1 and top-5 accuracy per draw, float [draws, 2]; ``rows`` int [draws, n] index ``x``."""
    batch_size = max(1, _BATCH_FLOATS // (rows.shape[1] * x.shape[1]))
    accuracies = []
    for start in range(0, len(rows), batch_size):
        drawn = rows[start : start + batch_size]
        kernels, biases = _fit(x[drawn], labels[drawn], num_classes=num_classes)
        for kernel, bias in zip(np.asarray(kernels), np.asarray(biases), strict=True):
            accuracy = top1_top5(x_test @ kernel.T + bias, test_labels)
            accuracies.append((accuracy["top1"], accuracy["top5"]))
    return np.array(accuracies)


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(x: jax.Array, labels: jax.Array, *, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Weights [B, C, D] and biases [B, C] fitted on features [B, n, D] and labels [B, n]."""
    draws, count, width = x.shape
    targets = jax.nn.one_hot(labels, num_classes, axis=1, dtype=x.dtype)  # [B, C, n]

    def split(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = points.reshape(draws, num_classes, width + 1)
        return both[..., :-1], both[..., -1]

    def joined(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.append(kernel, bias[..., None], axis=-1).reshape(draws, -1)

    def evaluate(points: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernel, bias = split(points)
        scores = jnp.einsum("bcd,bnd->bcn", kernel, x, precision=_HIGHEST) + bias[..., None]
        total = jax.nn.logsumexp(scores, axis=1)
        residuals = jnp.exp(scores - total[:, None]) - targets
        value = jnp.sum(total - jnp.sum(scores * targets, axis=1), axis=1)
        value = value + 0.5 * jnp.sum(jnp.square(kernel), axis=(1, 2))
        gradient = jnp.einsum("bcn,bnd->bcd", residuals, x, precision=_HIGHEST) + kernel
        return value, joined(gradient, residuals.sum(axis=2)), jnp.ones(draws, x.dtype)

    def precondition(vectors: jax.Array, _: jax.Array) -> jax.Array:
        # The Hessian of the penalty is the identity. The bias has no penalty: its scale is that of
        # the cross entropy.
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
