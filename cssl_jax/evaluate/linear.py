"""The linear probe: multinomial logistic regression on frozen features."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.errors import UserError
from cssl_jax.evaluate.metrics import checked_labels, top1_top5

L2_VALUES = tuple(10.0 ** (e / 2) for e in range(-10, 1))
HELD_OUT = 0.2  # of the training rows, on which the penalty is chosen
# Of the gradient's largest entry: within 1e-3 of the objective's minimum from l2 = 1e-4 on.
TOLERANCE = 1e-5
MAX_ITERATIONS = 200
Weights = tuple[jax.Array, jax.Array]


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    l2_values: tuple[float, ...] = L2_VALUES,
    seed: int = 0,
) -> dict[str, float]:
    """Fits a linear classifier on training features and reports on test features.

    Features are standardised by the training rows. The penalty is the one with the lowest cross
    entropy on a held-out fifth of the training rows, tried from strong to weak until that has risen
    twice; then all training rows are fitted with it. Test rows choose nothing.

    Args:
        train_features: [N, D].
        train_labels: int [N].
        test_features: [M, D].
        test_labels: int [M].
        num_classes: C.
        l2_values: Penalties to choose from.
        seed: Of the held-out fifth.

    Returns:
        {"top1", "top5"} as shares in [0, 1], and the chosen "l2".

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
    if test_features.shape[1] != train_features.shape[1]:
        raise UserError(
            f"test features are {test_features.shape[1]} wide, training features "
            f"{train_features.shape[1]}; give both from one encoder"
        )
    standardise = _standardiser(train_features)
    x = standardise(train_features)
    order = permute(np.arange(len(x)), epoch_key(seed, 0), len(x))
    cut = max(1, round(len(x) * HELD_OUT))
    # Held-out rows take part with weight 0, so that both fits have one shape and compile once.
    fitted = np.ones(len(x), np.float32)
    fitted[order[:cut]] = 0.0
    held_out = fitted == 0.0

    def fit(row_weights: np.ndarray, l2: float, start: Weights) -> Weights:
        return _fit(on_device, labels, row_weights, float(l2), start, TOLERANCE, MAX_ITERATIONS)

    on_device, start = jnp.asarray(x), _zeros(x.shape[1], num_classes)
    losses: dict[float, float] = {}
    for l2 in sorted(l2_values, reverse=True):
        # From the neighbour's solution it takes few steps.
        start = fit(fitted, l2, start)
        losses[l2] = _cross_entropy(_scores(start, x[held_out]), labels[held_out])
        last = list(losses.values())[-3:]
        if len(last) == 3 and last[0] < last[1] < last[2]:
            break  # overfitting for good, and weaker penalties are the slowest to solve
    l2 = min(losses, key=lambda value: losses[value])
    weights = fit(np.ones_like(fitted), l2, _zeros(x.shape[1], num_classes))
    return {**top1_top5(_scores(weights, standardise(test_features)), test_labels), "l2": l2}


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    l2: float,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Weights:
    """Minimises mean cross entropy + l2 / 2 ||W||^2, the bias unpenalised, by L-BFGS.

    Args:
        features: float [N, D], as they are (standardise them first).
        labels: int [N] in [0, num_classes).
        num_classes: C.
        l2: Penalty, at least 0.
        max_iterations: Of L-BFGS.
        tolerance: Stops where the gradient's largest entry is below it.

    Returns:
        Weights [D, C] and bias [C], at least float32.

    Raises:
        UserError: Features, labels or the penalty do not fit.
    """
    labels = checked_labels(labels, features, num_classes=num_classes, name="training")
    if not l2 >= 0:
        raise UserError(f"l2 is {l2}; give a penalty of at least 0")
    x = jnp.asarray(features)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    ones = jnp.ones(len(x), x.dtype)
    start = jax.tree.map(lambda w: w.astype(x.dtype), _zeros(x.shape[1], num_classes))
    return _fit(x, labels, ones, float(l2), start, tolerance, max_iterations)


@jax.jit
def _fit(
    x: jax.Array,
    labels: jax.Array,
    row_weights: jax.Array,
    l2: float,
    start: Weights,
    tolerance: float,
    max_iterations: int,
) -> Weights:
    def objective(weights: Weights) -> jax.Array:
        kernel, bias = weights
        logits = jnp.matmul(x, kernel.T, precision=jax.lax.Precision.HIGHEST) + bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        mean = jnp.sum(losses * row_weights) / jnp.sum(row_weights)
        return mean + 0.5 * l2 * jnp.sum(jnp.square(kernel))

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: tuple) -> jax.Array:
        _, _, gradient, iteration = carry
        largest = jnp.max(jnp.abs(jnp.concatenate([g.ravel() for g in gradient])))
        return (iteration < max_iterations) & (largest > tolerance)

    def improve(carry: tuple) -> tuple:
        weights, state, _, iteration = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = solver.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=objective
        )
        weights = optax.apply_updates(weights, updates)
        # The line search has evaluated the gradient at its end already.
        return weights, state, optax.tree.get(state, "grad"), iteration + 1

    # The kernel is solved for as [C, D]: its gradient is then residuals.T @ x, which XLA's CPU
    # backend computes five times as fast as x.T @ residuals.
    begin = (start[0].T, start[1])
    first = jax.grad(objective)(begin)
    (kernel, bias), *_ = jax.lax.while_loop(
        unfinished, improve, (begin, solver.init(begin), first, 0)
    )
    return kernel.T, bias


def _standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows [N, D] -> float32 [N, D], by the mean and standard deviation of ``features``."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64)
    # What varies by less than float32 can tell is constant: it is 0, not rounding noise blown up.
    varies = std > np.finfo(np.float32).eps * np.abs(features).max(axis=0)
    scale = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)
    return lambda x: ((x - mean) * scale).astype(np.float32)


def _scores(weights: Weights, x: np.ndarray) -> np.ndarray:
    kernel, bias = (np.asarray(w) for w in weights)
    return x @ kernel + bias


def _cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return float(np.mean(scipy.special.logsumexp(scores, axis=1) - own))


def _zeros(width: int, num_classes: int) -> Weights:
    return jnp.zeros((width, num_classes)), jnp.zeros(num_classes)
