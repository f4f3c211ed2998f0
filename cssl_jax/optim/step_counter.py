"""Counters of steps inside the state of an optimizer.

A schedule counts all steps, skipped ones included, because the length of the run is fixed. Moments
count only the updates that were applied.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


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
