"""Multinomial logistic regression for many penalties at once, on the device.

One problem minimises mean cross entropy + l2 / 2 ||W||^2 over a kernel W [C, D] and an unpenalised
bias [C]. All penalties share the rows. The scores and gradients of all problems are therefore two
large products per block of rows. The L-BFGS of ``lbfgs`` moves each problem independently.

The covariance of the features preconditions all problems. At equal class probabilities the Hessian
of the cross entropy is (I - 11'/C) / C (x) cov(x) (Boehning, Ann. Inst. Statist. Math. 44, 1992).
Along the principal axes of the covariance a Newton step is then a division. The constant 1 / C is
replaced by its value at the probabilities of the current point. Features of a trained encoder are
strongly correlated: without the preconditioner the same sweep takes four times as many evaluations.
"""

import functools
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels
from cssl_jax.evaluate.solvers import lbfgs

PRECISION = 1e-6  # predicted relative decrease of an objective at which its solver stops
MAX_ITERATIONS = 300  # evaluations of the objective per problem
_AXES = 512  # number of principal axes with separate variances; the others share one variance
_SAMPLE = 8192  # maximum number of rows from which the covariance is computed
_MEMORY_LIMIT = 2**30  # bytes of L-BFGS history of the problems that are solved together
# Multiplications per evaluation of all problems below which solved problems stay in the batch.
_MIN_SHRINK_COST = 5 * 10**7
_HIGHEST = jax.lax.Precision.HIGHEST
Weights = tuple[jax.Array, jax.Array]


class Rows(NamedTuple):
    """Training rows and their covariance, shared by all problems, on the device.

    Attributes:
        x: Features, float [blocks, r, D], zero-padded to whole blocks of r rows.
        labels: Class per row, int32 [blocks, r].
        weight: Weight per row, float [blocks, r]. The weights sum to 1; padding has weight 0.
        axes: Leading eigenvectors of the covariance, float [D, A], orthonormal.
        spread: Variance along each of ``axes``, float [A].
        rest: Variance along every other axis, float scalar.
    """

    x: jax.Array
    labels: jax.Array
    weight: jax.Array
    axes: jax.Array
    spread: jax.Array
    rest: jax.Array


class _Limits(TypedDict):
    """Limits at which a problem is done, see ``lbfgs.advance``."""

    tolerance: jax.Array | float
    precision: jax.Array | float
    max_trials: jax.Array | int


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    l2: float,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = 0.0,
    precision: float = PRECISION,
) -> Weights:
    """Minimises mean cross entropy + l2 / 2 ||W||^2 by L-BFGS; the bias is not penalised.

    Args:
        features: Features, float [N, D]. They are used unchanged: standardise them first.
        labels: Class per row, int [N] in [0, num_classes).
        num_classes: Number of classes C.
        l2: Penalty, at least 0.
        max_iterations: Maximum number of evaluations of the objective.
        tolerance: Largest absolute entry of the gradient at which the solver stops.
        precision: Predicted relative decrease of the objective at which the solver stops.

    Returns:
        Weights [D, C] and bias [C], float32 or wider.

    Raises:
        UserError: The features, labels or penalty are invalid.
    """
    kernels, biases = fit_all(
        features,
        labels,
        num_classes=num_classes,
        l2_values=(l2,),
        max_iterations=max_iterations,
        tolerance=tolerance,
        precision=precision,
    )
    return jnp.asarray(kernels[0].T), jnp.asarray(biases[0])


def fit_all(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    l2_values: tuple[float, ...],
    row_weights: np.ndarray | None = None,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = 0.0,
    precision: float = PRECISION,
) -> tuple[np.ndarray, np.ndarray]:
    """Solves the problem of ``fit_logistic`` for every penalty in one sweep.

    Args:
        features: Features, float [N, D]. They are used unchanged: standardise them first.
        labels: Class per row, int [N] in [0, num_classes).
        num_classes: Number of classes C.
        l2_values: L penalties, each finite and at least 0.
        row_weights: Weight of the cross entropy per row, float [N], at least 0; None: all 1.
        max_iterations: Maximum number of evaluations of the objective per penalty.
        tolerance: Largest absolute entry of the gradient at which a problem stops.
        precision: Predicted relative decrease of the objective at which a problem stops.

    Returns:
        Kernels [L, C, D] and biases [L, C], float32 or wider.

    Raises:
        UserError: The features, labels or a penalty are invalid.
    """
    labels = checked_labels(labels, features, num_classes=num_classes, name="training")
    for l2 in l2_values:
        if not 0 <= l2 < np.inf:
            raise UserError(f"l2 is {l2}; give a finite penalty of at least 0")
    size = num_classes * (np.shape(features)[1] + 1)
    # The number of steps depends on the penalty, so that neighbours are solved together.
    max_problems = max(1, _MEMORY_LIMIT // (2 * lbfgs.MEMORY * 4 * size))
    rows = _make_rows(np.asarray(features), labels, row_weights, num_classes * len(l2_values))
    limits = _Limits(tolerance=tolerance, precision=precision, max_trials=max_iterations)
    solutions = [
        _solve(rows, np.asarray(l2_values[start : start + max_problems]), num_classes, limits)
        for start in range(0, len(l2_values), max_problems)
    ]
    weights = np.concatenate(solutions).reshape(len(l2_values), num_classes, -1)
    return weights[..., :-1], weights[..., -1]


def _make_rows(
    x: np.ndarray, labels: np.ndarray, row_weights: np.ndarray | None, columns: int
) -> Rows:
    """Blocks of the training rows, sized for score matrices of ``columns`` columns."""
    x = np.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    weight = np.ones(len(x)) if row_weights is None else np.asarray(row_weights, np.float64)
    # On a CPU the scores of a small block stay in the cache; accelerators need large products.
    block = 1024 if jax.default_backend() == "cpu" else 16384
    block = max(128, min(block, 2**26 // columns, 1 << (len(x) - 1).bit_length()))
    padding = -len(x) % block

    def blocks(values: np.ndarray) -> jax.Array:
        padded = np.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
        return jnp.asarray(padded.reshape(-1, block, *values.shape[1:]))

    step = -(-len(x) // _SAMPLE)  # every step-th row, since the rows may be sorted by class
    return Rows(
        blocks(x),
        blocks(labels),
        blocks((weight / weight.sum()).astype(x.dtype)),
        *_principal_axes(jnp.asarray(x[::step])),
    )


@jax.jit
def _principal_axes(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Principal axes [D, A], variance per axis [A], mean variance of the others, of x [n, D]."""
    width = x.shape[1]
    x = x - jnp.mean(x, axis=0)

    def covariance_times(basis: jax.Array) -> jax.Array:
        return jnp.matmul(x.T, jnp.matmul(x, basis, precision=_HIGHEST), precision=_HIGHEST) / len(
            x
        )

    if width <= _AXES:
        basis = jnp.eye(width, dtype=x.dtype)
    else:  # subspace iteration: a full eigendecomposition would cost more than the fit
        basis = jax.random.normal(jax.random.key(0), (width, _AXES), x.dtype)
        for _ in range(2):
            basis, _ = jnp.linalg.qr(covariance_times(basis))
    small = jnp.matmul(basis.T, covariance_times(basis), precision=_HIGHEST)
    spread, vectors = jnp.linalg.eigh((small + small.T) / 2)
    total = jnp.sum(jnp.mean(jnp.square(x), axis=0))
    # Never 0: without a penalty nothing else bounds a step along an axis without variance.
    min_variance = 1e-6 * jnp.maximum(spread[-1], jnp.finfo(x.dtype).tiny)
    rest = jnp.maximum((total - jnp.sum(spread)) / max(1, width - len(spread)), min_variance)
    axes = jnp.matmul(basis, vectors, precision=_HIGHEST)
    return axes, jnp.maximum(spread, min_variance), rest


def _solve(rows: Rows, l2_values: np.ndarray, num_classes: int, limits: _Limits) -> np.ndarray:
    """Weights [L, C * (D + 1)] of all penalties.

    Once half of the problems of a large sweep are solved, the batch shrinks to the other half.
    """
    dtype = rows.x.dtype
    count, size = len(l2_values), num_classes * (rows.x.shape[2] + 1)
    solved = np.zeros((count, size), dtype)
    numbers = np.arange(count)  # number of the penalty of every problem in the batch
    state = _begin(
        rows, jnp.asarray(l2_values, dtype), jnp.zeros((count, size), dtype), num_classes
    )
    # Every batch size compiles a separate program, which pays off where an evaluation is slow.
    shrink = rows.x.size * num_classes * count > _MIN_SHRINK_COST
    while True:
        enough = len(numbers) // 2 if shrink else 0
        l2 = jnp.asarray(l2_values[numbers], dtype)
        state = _advance(rows, l2, state, limits, num_classes=num_classes, enough=enough)
        solved[numbers] = state.point
        unfinished = np.flatnonzero(~np.asarray(state.done))
        if not len(unfinished):
            return solved
        # Solved problems fill the batch up to exactly half, so that every sweep reuses the same
        # compiled sizes.
        done = np.setdiff1d(np.arange(len(numbers)), unfinished)
        keep = np.concatenate([unfinished, done[: enough - len(unfinished)]])
        state, numbers = jax.tree.map(lambda a, keep=keep: a[keep], state), numbers[keep]


@functools.partial(jax.jit, static_argnames="num_classes")
def _begin(rows: Rows, l2: jax.Array, start: jax.Array, num_classes: int) -> lbfgs.Solution:
    return lbfgs.begin(*_problems(rows, l2, num_classes), start)


@functools.partial(jax.jit, static_argnames=("num_classes", "enough"))
def _advance(
    rows: Rows,
    l2: jax.Array,
    state: lbfgs.Solution,
    limits: _Limits,
    *,
    num_classes: int,
    enough: int,
) -> lbfgs.Solution:
    problems = _problems(rows, l2, num_classes)
    return lbfgs.advance(*problems, state, enough=enough, **limits)


# Sums over rows: loss [B], kernel gradient [B * C, D], bias gradient [B, C] and impurity [B].
_Sums = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _problems(
    rows: Rows, l2: jax.Array, num_classes: int
) -> tuple[lbfgs.Evaluate, lbfgs.Precondition]:
    """Objective and preconditioner of the problems of B penalties ``l2``, as ``lbfgs`` takes them.

    Points are [B, C * (D + 1)]: per class the D weights, then the bias.
    """
    width, dtype = rows.x.shape[2], rows.x.dtype

    def split(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, C * (D + 1)] -> kernels [B, C, D] and biases [B, C]."""
        both = points.reshape(-1, num_classes, width + 1)
        return both[..., :-1], both[..., -1]

    def joined(kernels: jax.Array, biases: jax.Array) -> jax.Array:
        return jnp.append(kernels, biases[..., None], axis=-1).reshape(len(kernels), -1)

    def evaluate(points: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernels, biases = split(points)
        count = len(points)
        flat = kernels.reshape(-1, width)

        def add(sums: _Sums, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_Sums, None]:
            x, labels, weight = block
            # Class axis before row axis: the gradient is then residuals @ x, which XLA's CPU
            # backend computes five times as fast as x.T @ residuals.
            scores = jnp.matmul(flat, x.T, precision=_HIGHEST).reshape(count, num_classes, -1)
            scores = scores + biases[..., None]
            total = jax.nn.logsumexp(scores, axis=1)
            targets = jax.nn.one_hot(labels, num_classes, axis=0, dtype=dtype)
            probabilities = jnp.exp(scores - total[:, None])
            residuals = weight * (probabilities - targets)
            terms = (
                (weight * (total - jnp.sum(scores * targets, axis=1))).sum(axis=1),
                jnp.matmul(residuals.reshape(flat.shape[0], -1), x, precision=_HIGHEST),
                residuals.sum(axis=2),
                (weight * (1 - jnp.sum(jnp.square(probabilities), axis=1))).sum(axis=1),
            )
            return jax.tree.map(jnp.add, sums, terms), None

        zeros = (
            jnp.zeros(count, dtype),
            jnp.zeros_like(flat),
            jnp.zeros_like(biases),
            jnp.zeros(count, dtype),
        )
        sums, _ = jax.lax.scan(add, zeros, (rows.x, rows.labels, rows.weight))
        loss, kernel_sums, bias_gradient, impurity = sums
        value = loss + 0.5 * l2 * jnp.sum(jnp.square(kernels), axis=(1, 2))
        kernel_gradient = kernel_sums.reshape(kernels.shape) + l2[:, None, None] * kernels
        # The curvature is the mean of p (1 - p): 1 / C (1 - 1 / C) at equal probabilities, 0 where
        # every row is classified with certainty. The minimum keeps the preconditioner finite.
        curvature = jnp.maximum(impurity / num_classes, 1e-6)
        return value, joined(kernel_gradient, bias_gradient), curvature

    def precondition(vectors: jax.Array, curvature: jax.Array) -> jax.Array:
        # (c cov + l2 I)^-1: identity times the value of the other axes, plus a correction per axis.
        kernels, biases = split(vectors)
        c, penalty = curvature[:, None, None], l2[:, None, None]
        rest = 1 / (c * rows.rest + penalty)
        along = jnp.matmul(kernels, rows.axes, precision=_HIGHEST)
        along = along * (1 / (c * rows.spread + penalty) - rest)
        return joined(
            rest * kernels + jnp.matmul(along, rows.axes.T, precision=_HIGHEST),
            biases / curvature[:, None],
        )

    return evaluate, precondition
