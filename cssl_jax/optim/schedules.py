"""Values that change over a run: weight decay, momentum of a copy, temperatures.

All of them are functions of the step, which also counts skipped steps: they survive skips,
rollbacks and restarts. A method evaluates them at ``ctx.step``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def cosine_between(start: float, end: float, total_steps: int) -> optax.Schedule:
    """Returns a schedule from ``start`` at step 0 to ``end`` at ``total_steps``, half a cosine.

    start + (end - start) (1 - cos(pi t / T)) / 2, as for the weight decay and the momentum of DINO
    (arXiv 2104.14294, sec. 3.2) and the momentum of BYOL (arXiv 2006.07733, sec. 3.3).

    Args:
        start: Value at step 0.
        end: Value at ``total_steps`` and later.
        total_steps: Number of steps T.

    >>> [round(float(cosine_between(0.04, 0.4, 10)(step)), 3) for step in (0, 5, 10)]
    [0.04, 0.22, 0.4]
    """

    def schedule(step: Any) -> Any:
        progress = jnp.clip(jnp.asarray(step, jnp.result_type(float)) / total_steps, 0, 1)
        return start + (end - start) * (1 - jnp.cos(jnp.pi * progress)) / 2

    return schedule


def linear_then_constant(start: float, end: float, steps: int) -> optax.Schedule:
    """Returns a schedule from ``start`` at step 0 to ``end`` at ``steps`` and later, linearly.

    DINO warms the temperature of its teacher up in this way (arXiv 2104.14294, app. A).

    >>> [round(float(linear_then_constant(0.04, 0.07, 30)(step)), 3) for step in (0, 15, 30, 99)]
    [0.04, 0.055, 0.07, 0.07]
    """
    schedule: optax.Schedule = optax.linear_schedule(start, end, steps)
    return schedule


def is_schedule(node: Any) -> bool:
    """True if a node of the optimizer state is the counter of a schedule.

    A schedule counts all steps, because the length of the run is fixed. Moments count only the
    updates that were applied.
    """
    return isinstance(node, optax.ScaleByScheduleState)


def select_state(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """The state ``new`` where the condition is true, else ``old`` with the counters of ``new``."""
    return jax.tree.map(
        lambda n, o: (
            n if is_schedule(n) else jax.tree.map(lambda a, b: jnp.where(condition, a, b), n, o)
        ),
        new,
        old,
        is_leaf=is_schedule,
    )


def by_step(
    function: Callable[[PyTree, PyTree, jax.Array], PyTree],
) -> optax.GradientTransformation:
    """Transformation by (updates, params, step) -> updates; its state is the counter of steps."""

    def init(params: PyTree) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: optax.ScaleByScheduleState, params: PyTree = None
    ) -> tuple[PyTree, optax.ScaleByScheduleState]:
        count = optax.safe_increment(state.count)
        return function(updates, params, state.count), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(init, update)
