"""The train step, written once: per-device code over one named axis, the same for every method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cssl_jax.methods.base import Context, Method, PyTree
from cssl_jax.train.gradient import MakeBatch, make_gradient
from cssl_jax.train.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    make_batch: MakeBatch,
    *,
    total_steps: int,
    axis_name: str | None,
    micro_batches: int = 1,
    frozen_norm: bool = False,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]:
    """Builds ``(state, constants, feed) -> (state, metrics)`` for ``parallel.data_parallel``.

    Args:
        method: The objective.
        optimizer: From ``optimizers.make_optimizer``.
        schedule: The learning rate it follows, for the metrics.
        make_batch: ``(step, constants, feed) -> batch`` on the device; see ``data.pipeline``.
        total_steps: Of the run.
        axis_name: Mapped axis, or None on a single device.
        micro_batches: See ``make_gradient``.
        frozen_norm: See ``Context``.

    Returns:
        The function; metrics are replicated scalars, of the parameters before the update.
    """
    gradient = make_gradient(
        method,
        make_batch,
        total_steps=total_steps,
        axis_name=axis_name,
        micro_batches=micro_batches,
        frozen_norm=frozen_norm,
    )

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
        ctx = Context(state.step, total_steps, axis_name, frozen_norm=frozen_norm)
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
