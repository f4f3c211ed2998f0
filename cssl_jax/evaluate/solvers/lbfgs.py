"""Limited-memory BFGS on a batch of smooth convex problems that converge independently.

All problems are evaluated in one call, so that a product with shared data is one large product.
Every problem has a separate step length and accepts or rejects its trial point independently. No
problem waits for the line search of another. Source: Nocedal and Wright, Numerical Optimization,
2006, algorithm 7.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

MEMORY = 10  # number of stored pairs (step, gradient change) per problem
_ARMIJO = 1e-4  # fraction of the predicted decrease that an accepted step must reach
_MIN_SHRINKAGE = 0.1  # minimum ratio of a step length to the rejected one before it


class Solution(NamedTuple):
    """Solver state of B problems with P parameters each; float arrays unless a dtype is given.

    Attributes:
        point: Best parameters so far, [B, P].
        value: Objective at ``point``, [B].
        gradient: Gradient of the objective at ``point``, [B, P].
        curvature: Curvature scale that the objective reports at ``point``, [B].
        done: bool [B], True if the problem has converged, has reached the limit of evaluations, or
            if no shorter step lowers its objective in this floating-point precision.
        direction: Search direction of the next trial, [B, P].
        length: Step length of the next trial, in units of ``direction``, [B].
        steps: Last accepted steps, [B, MEMORY, P], newest last, zeros where there is none.
        changes: Gradient changes over these steps, [B, MEMORY, P].
        trials: int [B], number of evaluations so far.
        refused: int [B], number of consecutive rejected trials.
    """

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    done: jax.Array
    direction: jax.Array
    length: jax.Array
    steps: jax.Array
    changes: jax.Array
    trials: jax.Array
    refused: jax.Array


# [B, P] -> (value [B], gradient [B, P], curvature [B])
Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
# (vectors [B, P], curvature [B]) -> approximate inverse Hessian times the vectors [B, P]
Precondition = Callable[[jax.Array, jax.Array], jax.Array]


def begin(evaluate: Evaluate, precondition: Precondition, start: jax.Array) -> Solution:
    """Evaluates the starting points and returns the state before the first trial.

    Args:
        evaluate: Objective of all problems.
        precondition: Approximate inverse Hessian, positive definite.
        start: Initial parameters, float [B, P].
    """
    chex.assert_rank(start, 2)
    value, gradient, curvature = evaluate(start)
    chex.assert_shape([value, curvature], start.shape[:1])
    chex.assert_equal_shape([gradient, start])
    history = jnp.zeros((len(start), MEMORY, start.shape[1]), start.dtype)
    count = jnp.zeros(len(start), jnp.int32)
    return Solution(
        point=start,
        value=value,
        gradient=gradient,
        curvature=curvature,
        done=jnp.zeros(len(start), bool),
        direction=-precondition(gradient, curvature),
        length=jnp.ones_like(value),
        steps=history,
        changes=history,
        trials=count,
        refused=count,
    )


def advance(
    evaluate: Evaluate,
    precondition: Precondition,
    state: Solution,
    *,
    tolerance: jax.Array | float,
    precision: jax.Array | float,
    max_trials: jax.Array | int,
    enough: jax.Array | int,
) -> Solution:
    """Iterates until at most ``enough`` problems are unfinished.

    A problem is done at the first of the three limits ``tolerance``, ``precision`` and
    ``max_trials``.

    Args:
        evaluate: Objective of all problems.
        precondition: Approximate inverse Hessian, positive definite.
        state: State from ``begin`` or from an earlier call.
        tolerance: Largest absolute entry of the gradient at which a problem is done.
        precision: Predicted relative decrease of the value at which a problem is done.
        max_trials: Maximum number of evaluations per problem.
        enough: Number of unfinished problems at which the function returns.

    Returns:
        The new state. Problems that are done keep their point.
    """

    def unfinished(state: Solution) -> jax.Array:
        return jnp.sum(~state.done) > enough

    def improve(state: Solution) -> Solution:
        after = _try_step(evaluate, precondition, state)
        slope = jnp.sum(after.gradient * after.direction, axis=1)
        # Only a new point can meet a limit: a rejected trial leaves value and gradient as they are.
        accepted = after.refused == 0
        # A full quasi-Newton step lowers the quadratic model by half the slope.
        small_decrease = -0.5 * slope <= precision * jnp.abs(after.value)
        flat = jnp.max(jnp.abs(after.gradient), axis=1) <= tolerance
        # Thirty rejections shorten a step by more than float64 resolves.
        stuck = (after.refused > 30) | ~jnp.isfinite(after.value)
        done = (accepted & (small_decrease | flat)) | stuck | (after.trials >= max_trials)
        return after._replace(done=state.done | done)

    state = state._replace(done=state.done | (state.trials >= max_trials))
    return jax.lax.while_loop(unfinished, improve, state)


def _try_step(evaluate: Evaluate, precondition: Precondition, state: Solution) -> Solution:
    """One evaluation: every unfinished problem accepts its trial point or shortens its step."""
    step = state.length[:, None] * state.direction
    value, gradient, curvature = evaluate(state.point + step)
    slope = jnp.sum(state.gradient * step, axis=1)
    # Rounding changes the last bits of a sum of many terms: an increase within them counts as none.
    slack = 4 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    sufficient = value <= state.value + _ARMIJO * slope + slack
    accepted, rejected = sufficient & ~state.done, ~sufficient & ~state.done
    # The minimum of the parabola through value, slope and trial value.
    parabola = -0.5 * slope / jnp.maximum(value - state.value - slope, 1e-30)
    shrinkage = jnp.where(
        jnp.isfinite(value), jnp.clip(parabola, _MIN_SHRINKAGE, 0.5), _MIN_SHRINKAGE
    )

    change = gradient - state.gradient
    # s'y > 0 keeps the inverse Hessian positive definite; a pair below rounding carries no signal.
    step_dot_change = jnp.sum(step * change, axis=1)
    scale = jnp.sqrt(jnp.sum(step**2, axis=1) * jnp.sum(change**2, axis=1))
    is_positive = step_dot_change > jnp.finfo(value.dtype).eps * scale
    remember = (accepted & is_positive)[:, None, None]

    def push(history: jax.Array, newest: jax.Array) -> jax.Array:
        return jnp.where(remember, jnp.append(history[:, 1:], newest[:, None], axis=1), history)

    def new_if_accepted(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    after = state._replace(
        point=new_if_accepted(state.point + step, state.point),
        value=new_if_accepted(value, state.value),
        gradient=new_if_accepted(gradient, state.gradient),
        curvature=new_if_accepted(curvature, state.curvature),
        length=jnp.where(
            accepted, 1.0, jnp.where(rejected, state.length * shrinkage, state.length)
        ),
        steps=push(state.steps, step),
        changes=push(state.changes, change),
        trials=state.trials + ~state.done,
        refused=jnp.where(rejected, state.refused + 1, 0),
    )
    direction = new_if_accepted(_direction(after, precondition), state.direction)
    return after._replace(direction=direction)


def _direction(state: Solution, precondition: Precondition) -> jax.Array:
    """Search direction -H g [B, P] by the two-loop recursion.

    A zero pair of the history, which stands for none, has no effect.
    """
    products = jnp.sum(state.steps * state.changes, axis=2)  # s'y of every pair, [B, MEMORY]
    rho = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1.0), 0.0)
    vector = state.gradient
    alphas = []  # newest pair first
    for i in reversed(range(MEMORY)):
        alpha = rho[:, i] * jnp.sum(state.steps[:, i] * vector, axis=1)
        vector = vector - alpha[:, None] * state.changes[:, i]
        alphas.append(alpha)
    # The preconditioner gives the shape of the initial inverse Hessian. Its scale is fitted to the
    # newest pair: y'H y = s'y.
    newest = state.changes[:, -1]
    preconditioned = precondition(newest, state.curvature)
    quadratic = jnp.sum(newest * preconditioned, axis=1)
    scale = jnp.where(
        quadratic > 0, products[:, -1] / jnp.where(quadratic > 0, quadratic, 1.0), 1.0
    )
    vector = scale[:, None] * precondition(vector, state.curvature)
    for i in range(MEMORY):
        beta = rho[:, i] * jnp.sum(state.changes[:, i] * vector, axis=1)
        vector = vector + (alphas[MEMORY - 1 - i] - beta)[:, None] * state.steps[:, i]
    return -vector
