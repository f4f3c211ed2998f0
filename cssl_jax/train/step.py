"""The train step, written once: per-device code over one named axis, the same for every method."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.methods.base import Batch, Context, Method, PyTree
from cssl_jax.train.state import TrainState

MakeBatch = Callable[[jax.Array, PyTree, PyTree], Batch]
Metrics = dict[str, jax.Array]


def make_gradient(
    method: Method, make_batch: MakeBatch, *, total_steps: int, axis_name: str | None
) -> Callable[[TrainState, PyTree, PyTree], tuple[PyTree, dict[str, Any]]]:
    """Builds ``(state, constants, feed) -> (gradient, aux)`` of the global batch, replicated.

    Each device differentiates its own mean loss, collectives included (a gather becomes a
    reduce-scatter), and the gradients are averaged over the axis.
    """

    def gradient(
        state: TrainState, constants: PyTree, feed: PyTree
    ) -> tuple[PyTree, dict[str, Any]]:
        batch = make_batch(state.step, constants, feed)
        ctx = Context(state.step, total_steps, axis_name)

        def loss(params: PyTree) -> tuple[jax.Array, dict[str, Any]]:
            return method.loss(params, state.model_state, state.method_state, batch, ctx)

        grads, aux = jax.grad(loss, has_aux=True)(state.params)
        if axis_name is not None:
            grads, aux["metrics"] = jax.lax.pmean((grads, aux["metrics"]), axis_name)
        return grads, aux

    return gradient


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    make_batch: MakeBatch,
    *,
    total_steps: int,
    axis_name: str | None,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]:
    """Builds ``(state, constants, feed) -> (state, metrics)`` for ``parallel.data_parallel``.

    Args:
        method: The objective.
        optimizer: From ``optimizers.make_optimizer``.
        schedule: The learning rate it follows, for the metrics.
        make_batch: ``(step, constants, feed) -> batch`` on the device; see ``data.pipeline``.
        total_steps: Of the run.
        axis_name: Mapped axis, or None on a single device.

    Returns:
        The function; metrics are replicated scalars, of the parameters before the update.
    """
    gradient = make_gradient(method, make_batch, total_steps=total_steps, axis_name=axis_name)

    def train_step(
        state: TrainState, constants: PyTree, feed: PyTree
    ) -> tuple[TrainState, Metrics]:
        grads, aux = gradient(state, constants, feed)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree_util.tree_map_with_path(
            lambda path, u: u if (on := method.trainable(path, state.step)) is True else u * on,
            updates,
        )
        params = optax.apply_updates(state.params, updates)
        ctx = Context(state.step, total_steps, axis_name)
        metrics = {
            **aux["metrics"],
            "gradient_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step)),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=aux["model_state"],
            method_state=method.after_update(params, state.method_state, aux, ctx),
            opt_state=opt_state,
        )
        return new_state, metrics

    return train_step
