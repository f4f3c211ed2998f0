"""Limited-memory BFGS on many smooth convex problems at once, each at its own pace.

All problems are evaluated together, so that a product with shared data is one large product; but
every problem has a step length of its own and takes or refuses its trial point alone, so that none
waits for another's line search (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

MEMORY = 10  # pairs of steps and gradient changes that are kept
_ARMIJO = 1e-4  # share of the predicted decrease that a step must reach
_SHORTEST = 0.1  # of the step before, after a refused trial


class Solution(NamedTuple):
    """Where the problems stand; the leading axis of everything is the problem.

    Attributes:
        point: [B, P].
        value: [B].
        gradient: [B, P].
        curvature: [B], what the objective says of its scale at ``point``.
        done: bool [B]: converged, or no shorter step lowers the objective in this precision.
        direction: [B, P], in which the next trial lies.
        length: [B], of that trial.
        steps: [B, MEMORY, P], newest last.
        changes: [B, MEMORY, P], of the gradient.
        trials: int [B], evaluations so far.
        refused: int [B], trials in a row that were.
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
# (vectors [B, P], curvature [B]) -> an inverse Hessian's rough guess times the vectors
Precondition = Callable[[jax.Array, jax.Array], jax.Array]


def begin(evaluate: Evaluate, precondition: Precondition, start: jax.Array) -> Solution:
    """The state before the first trial, from ``start`` [B, P]."""
    value, gradient, curvature = evaluate(start)
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
    """Goes on until at most ``enough`` problems are unfinished.

    Args:
        evaluate: Objective of all problems.
        precondition: Rough inverse Hessian, positive definite.
        state: From ``begin`` or an earlier call.
        tolerance: A problem is done where its gradient's largest entry is at most this,
        precision: or where a step is predicted to lower its value by at most this share of it,
        max_trials: or after so many evaluations.
        enough: Unfinished problems at which to return.
    """

    def unfinished(state: Solution) -> jax.Array:
        return jnp.sum(~state.done) > enough

    def improve(state: Solution) -> Solution:
        trial = _trial(evaluate, precondition, state)
        slope = jnp.sum(trial.gradient * trial.direction, axis=1)
        fresh = trial.refused == 0
        small = -0.5 * slope <= precision * jnp.abs(trial.value)
        flat = jnp.max(jnp.abs(trial.gradient), axis=1) <= tolerance
        # Thirty refusals shorten a step by more than float64 resolves.
        stuck = (trial.refused > 30) | ~jnp.isfinite(trial.value)
        done = (fresh & (small | flat)) | stuck | (trial.trials >= max_trials)
        return trial._replace(done=state.done | done)

    state = state._replace(done=state.done | (state.trials >= max_trials))
    return jax.lax.while_loop(unfinished, improve, state)


def _trial(evaluate: Evaluate, precondition: Precondition, state: Solution) -> Solution:
    """One evaluation: every unfinished problem takes its trial point, or shortens its step."""
    step = state.length[:, None] * state.direction
    value, gradient, curvature = evaluate(state.point + step)
    slope = jnp.sum(state.gradient * step, axis=1)
    # Sums of many terms differ in their last bits; what is within them is no rise.
    slack = 4 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    accept = value <= state.value + _ARMIJO * slope + slack
    taken, refused = accept & ~state.done, ~accept & ~state.done
    # The minimum of the parabola through value, slope and trial value.
    parabola = -0.5 * slope / jnp.maximum(value - state.value - slope, 1e-30)
    shorter = jnp.where(jnp.isfinite(value), jnp.clip(parabola, _SHORTEST, 0.5), _SHORTEST)

    change = gradient - state.gradient
    bend = jnp.sum(step * change, axis=1)
    scale = jnp.sqrt(jnp.sum(step**2, axis=1) * jnp.sum(change**2, axis=1))
    remember = (taken & (bend > jnp.finfo(value.dtype).eps * scale))[:, None, None]

    def push(history: jax.Array, newest: jax.Array) -> jax.Array:
        return jnp.where(remember, jnp.append(history[:, 1:], newest[:, None], axis=1), history)

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    after = state._replace(
        point=keep(state.point + step, state.point),
        value=keep(value, state.value),
        gradient=keep(gradient, state.gradient),
        curvature=keep(curvature, state.curvature),
        length=jnp.where(taken, 1.0, jnp.where(refused, state.length * shorter, state.length)),
        steps=push(state.steps, step),
        changes=push(state.changes, change),
        trials=state.trials + ~state.done,
        refused=jnp.where(refused, state.refused + 1, 0),
    )
    return after._replace(direction=keep(_direction(after, precondition), state.direction))


def _direction(state: Solution, precondition: Precondition) -> jax.Array:
    """-H g by the two-loop recursion; empty places of the history have no effect."""
    bends = jnp.sum(state.steps * state.changes, axis=2)  # [B, MEMORY]
    inverse = jnp.where(bends > 0, 1 / jnp.where(bends > 0, bends, 1.0), 0.0)
    vector = state.gradient
    shares = []
    for i in reversed(range(MEMORY)):
        share = inverse[:, i] * jnp.sum(state.steps[:, i] * vector, axis=1)
        vector = vector - share[:, None] * state.changes[:, i]
        shares.append(share)
    newest = state.changes[:, -1]
    guess = precondition(newest, state.curvature)
    size = jnp.sum(newest * guess, axis=1)
    fitted = jnp.where(size > 0, bends[:, -1] / jnp.where(size > 0, size, 1.0), 1.0)
    vector = fitted[:, None] * precondition(vector, state.curvature)
    for i in range(MEMORY):
        share = inverse[:, i] * jnp.sum(state.changes[:, i] * vector, axis=1)
        vector = vector + (shares[MEMORY - 1 - i] - share)[:, None] * state.steps[:, i]
    return -vector
