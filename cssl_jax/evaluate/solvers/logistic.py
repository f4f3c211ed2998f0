"""Multinomial logistic regression for many penalties at once, on the device.

One problem is: minimise mean cross entropy + l2 / 2 ||W||^2 over a kernel W [C, D] and an
unpenalised bias [C]. All penalties share the rows, so that scores and gradients of all problems
are two large products a block of rows, and the L-BFGS of ``lbfgs`` moves each problem on its own.

The features' covariance, which all problems share too, preconditions them: at equal probabilities
the Hessian of the cross entropy is (I - 11'/C) / C (x) cov(x) (Boehning, Ann. Inst. Statist. Math.
44, 1992), so that in the covariance's axes a Newton step is a division. The constant 1 / C is
replaced by what the probabilities at the present point say. Features of a trained encoder are
strongly correlated, and without it the same sweep takes four times as many evaluations.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels
from cssl_jax.evaluate.solvers import lbfgs

PRECISION = 1e-6  # of an objective: the decrease, as a share, that is no longer worth a step
MAX_ITERATIONS = 300
_AXES = 512  # of the covariance that are told apart; the rest count as one
_SAMPLE = 8192  # rows that the covariance is computed from
_MEMORY_LIMIT = 2**30  # bytes of the history of the problems that are solved together
_SMALL = 5 * 10**7  # products of an evaluation of all problems, below which none is left out early
_HIGHEST = jax.lax.Precision.HIGHEST
Weights = tuple[jax.Array, jax.Array]


class Rows(NamedTuple):
    """What all problems share, on the device; rows are padded to whole blocks.

    Attributes:
        x: float [blocks, r, D].
        labels: int32 [blocks, r].
        weight: float [blocks, r]; they sum to 1.
        axes: float [D, A], orthonormal: the covariance's leading eigenvectors.
        spread: float [A], variances along them.
        rest: float scalar, variance along any other axis.
    """

    x: jax.Array
    labels: jax.Array
    weight: jax.Array
    axes: jax.Array
    spread: jax.Array
    rest: jax.Array


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
    """Minimises mean cross entropy + l2 / 2 ||W||^2, the bias unpenalised, by L-BFGS.

    Args:
        features: float [N, D], as they are (standardise them first).
        labels: int [N] in [0, num_classes).
        num_classes: C.
        l2: Penalty, at least 0.
        max_iterations: Evaluations of the objective.
        tolerance: Stops where the gradient's largest entry is at most this,
        precision: or where a step is predicted to lower the objective by at most this share of it.

    Returns:
        Weights [D, C] and bias [C], at least float32.

    Raises:
        UserError: Features, labels or the penalty do not fit.
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
    """``fit_logistic`` for every penalty.

    Args:
        features: As there, as the rest.
        labels: As there.
        num_classes: As there.
        l2_values: Penalties, L of them.
        row_weights: float [N], none below 0, of every row's cross entropy; None is 1.
        max_iterations: As there.
        tolerance: As there.
        precision: As there.

    Returns:
        Kernels [L, C, D] and biases [L, C], at least float32.

    Raises:
        UserError: Features, labels or a penalty do not fit.
    """
    labels = checked_labels(labels, features, num_classes=num_classes, name="training")
    for l2 in l2_values:
        if not 0 <= l2 < np.inf:
            raise UserError(f"l2 is {l2}; give a finite penalty of at least 0")
    size = num_classes * (np.shape(features)[1] + 1)
    # Stronger and weaker penalties take different numbers of steps: neighbours go together.
    most = max(1, _MEMORY_LIMIT // (2 * lbfgs.MEMORY * 4 * size))
    rows = _rows(jnp.asarray(features), labels, row_weights, num_classes * len(l2_values))
    limits = {"tolerance": tolerance, "precision": precision, "max_trials": max_iterations}
    parts = [
        _solve(rows, np.asarray(l2_values[start : start + most]), num_classes, limits)
        for start in range(0, len(l2_values), most)
    ]
    weights = np.concatenate(parts).reshape(len(l2_values), num_classes, -1)
    return weights[..., :-1], weights[..., -1]


def _rows(x: jax.Array, labels: np.ndarray, row_weights: np.ndarray | None, columns: int) -> Rows:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    weight = np.ones(len(x)) if row_weights is None else np.asarray(row_weights, np.float64)
    # On a CPU a block's scores stay in its cache; others want large products.
    block = 1024 if jax.default_backend() == "cpu" else 16384
    block = max(128, min(block, 2**26 // columns, 1 << (len(x) - 1).bit_length()))
    padding = -len(x) % block

    def blocks(values: jax.Array | np.ndarray) -> jax.Array:
        padded = jnp.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
        return padded.reshape(-1, block, *values.shape[1:])

    step = -(-len(x) // _SAMPLE)  # over all rows, which may be sorted
    return Rows(
        blocks(x),
        blocks(labels),
        blocks(jnp.asarray(weight / weight.sum(), x.dtype)),
        *_principal_axes(x[::step]),
    )


@jax.jit
def _principal_axes(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(axes [D, A], their variances [A], the rest's variance) of rows [n, D]."""
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
    baseline = 1e-6 * jnp.maximum(spread[-1], jnp.finfo(x.dtype).tiny)
    rest = jnp.maximum((total - jnp.sum(spread)) / max(1, width - len(spread)), baseline)
    axes = jnp.matmul(basis, vectors, precision=_HIGHEST)
    return axes, jnp.maximum(spread, baseline), rest


def _solve(rows: Rows, l2_values: np.ndarray, num_classes: int, limits: dict) -> np.ndarray:
    """Weights [L, C * (D + 1)] of all penalties; once half are done, the rest go on alone."""
    dtype = rows.x.dtype
    count, size = len(l2_values), num_classes * (rows.x.shape[2] + 1)
    solved = np.zeros((count, size), dtype)
    number = np.arange(count)
    state = _begin(
        rows, jnp.asarray(l2_values, dtype), jnp.zeros((count, size), dtype), num_classes
    )
    # Every size is a program of its own to compile: worth it where an evaluation takes long.
    shrink = rows.x.size * num_classes * count > _SMALL
    while True:
        enough = len(number) // 2 if shrink else 0
        l2 = jnp.asarray(l2_values[number], dtype)
        state = _advance(rows, l2, state, limits, num_classes=num_classes, enough=enough)
        solved[number] = state.point
        left = np.flatnonzero(~np.asarray(state.done))
        if not len(left):
            return solved
        # A full half, so that one program serves every sweep: some done ones come along.
        done = np.setdiff1d(np.arange(len(number)), left)
        keep = np.concatenate([left, done[: enough - len(left)]])
        state, number = jax.tree.map(lambda a, keep=keep: a[keep], state), number[keep]


@functools.partial(jax.jit, static_argnames="num_classes")
def _begin(rows: Rows, l2: jax.Array, start: jax.Array, num_classes: int) -> lbfgs.Solution:
    return lbfgs.begin(*_problems(rows, l2, num_classes), start)


@functools.partial(jax.jit, static_argnames=("num_classes", "enough"))
def _advance(
    rows: Rows,
    l2: jax.Array,
    state: lbfgs.Solution,
    limits: dict,
    *,
    num_classes: int,
    enough: int,
) -> lbfgs.Solution:
    problems = _problems(rows, l2, num_classes)
    return lbfgs.advance(*problems, state, enough=enough, **limits)


def _problems(
    rows: Rows, l2: jax.Array, num_classes: int
) -> tuple[lbfgs.Evaluate, lbfgs.Precondition]:
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

        def add(sums: tuple, block: tuple) -> tuple[tuple, None]:
            x, labels, weight = block
            # Classes before rows: the gradient is then residuals @ x, which XLA's CPU backend
            # computes five times as fast as x.T @ residuals.
            scores = jnp.matmul(flat, x.T, precision=_HIGHEST).reshape(count, num_classes, -1)
            scores = scores + biases[..., None]
            total = jax.nn.logsumexp(scores, axis=1)
            own = jax.nn.one_hot(labels, num_classes, axis=0, dtype=dtype)
            shares = jnp.exp(scores - total[:, None])
            residuals = weight * (shares - own)
            found = (
                (weight * (total - jnp.sum(scores * own, axis=1))).sum(axis=1),
                jnp.matmul(residuals.reshape(flat.shape[0], -1), x, precision=_HIGHEST),
                residuals.sum(axis=2),
                (weight * (1 - jnp.sum(jnp.square(shares), axis=1))).sum(axis=1),
            )
            return jax.tree.map(jnp.add, sums, found), None

        zeros = (
            jnp.zeros(count, dtype),
            jnp.zeros_like(flat),
            jnp.zeros_like(biases),
            jnp.zeros(count, dtype),
        )
        sums, _ = jax.lax.scan(add, zeros, (rows.x, rows.labels, rows.weight))
        loss, of_kernels, of_biases, impurity = sums
        value = loss + 0.5 * l2 * jnp.sum(jnp.square(kernels), axis=(1, 2))
        gradient = of_kernels.reshape(kernels.shape) + l2[:, None, None] * kernels
        # Mean of p (1 - p): 1 / C (1 - 1 / C) at equal shares, 0 where every row is certain.
        return value, joined(gradient, of_biases), jnp.maximum(impurity / num_classes, 1e-6)

    def precondition(vectors: jax.Array, curvature: jax.Array) -> jax.Array:
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
