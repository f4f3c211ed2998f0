"""The train step, written once: per-device code over one named axis, the same for every method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssl_jax.methods.base import Context, Method, PyTree
from cssl_jax.optim.norms import group_norms, square_sums
from cssl_jax.step.grad_cache import MakeBatch, make_gradient
from cssl_jax.step.state import TrainState, is_schedule

Metrics = dict[str, jax.Array]
NORMS = ("parameters", "gradient")  # rows of metrics["norms"]


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
    figures: Callable[[PyTree, PyTree], Metrics] | None = None,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]:
    """Builds ``(state, constants, feed) -> (state, metrics)`` for ``spmd.data_parallel``.

    An update whose loss or gradient is not finite is never made: the step counts, but parameters,
    statistics and optimizer stay as they were. What follows from it is the loop's to decide.

    Args:
        method: The objective.
        optimizer: From ``optimizers.make_optimizer``.
        schedule: The learning rate it follows, for the metrics.
        make_batch: ``(step, constants, feed) -> batch`` on the device; see ``data.pipeline.base``.
        total_steps: Of the run.
        axis_name: Mapped axis, or None on a single device.
        micro_batches: See ``make_gradient``.
        frozen_norm: See ``Context``.
        figures: ``(gradient, params) -> more metrics``; see ``optim.trust_ratio``.

    Returns:
        The function; metrics are replicated, of the parameters before the update: scalars,
        "finite" (bool: the update was made), "skipped" (see ``TrainState``) and "norms" (float
        [2, groups]: ``NORMS`` of each of ``norms.parameter_groups``).
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
        state: TrainState, constants: PyTree, host_batch: PyTree
    ) -> tuple[TrainState, Metrics]:
        grads, aux = gradient(state, constants, host_batch)
        with jax.named_scope("journal"):
            squares = square_sums(grads)
            gradient_norm = jnp.sqrt(jnp.sum(squares))
            norms = jnp.stack(
                [
                    group_norms(square_sums(state.params), state.params),
                    group_norms(squares, grads),
                ]
            )
        finite = jnp.isfinite(aux["metrics"]["loss"]) & jnp.isfinite(gradient_norm)

        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            updates = jax.tree_util.tree_map_with_path(
                lambda path, u: u if (on := method.trainable(path, state.step)) is True else u * on,
                updates,
            )
        params = _where(finite, optax.apply_updates(state.params, updates), state.params)
        ctx = Context(state.step, total_steps, axis_name, frozen_norm=frozen_norm)
        method_state = method.after_update(params, state.method_state, aux, ctx)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=_where(finite, aux["model_state"], state.model_state),
            method_state=_where(finite, method_state, state.method_state),
            opt_state=_but_schedules(finite, opt_state, state.opt_state),
            skipped=_counted(finite, state.skipped),
        )
        metrics = {
            **aux["metrics"],
            "gradient_norm": gradient_norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "finite": finite,
            "skipped": new_state.skipped,
            "norms": norms,
        }
        if figures is not None:
            with jax.named_scope("journal"):
                metrics |= figures(grads, state.params)
        return new_state, metrics

    return train_step


def _where(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    with jax.named_scope("finite"):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _but_schedules(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """The optimizer's state; a schedule counts a step whose update was not made as well."""
    return jax.tree.map(
        lambda n, o: n if is_schedule(n) else _where(finite, n, o), new, old, is_leaf=is_schedule
    )


def _counted(finite: jax.Array, skipped: jax.Array | np.ndarray) -> jax.Array:
    """``TrainState.skipped`` after one more step."""
    in_all, in_a_row = skipped
    lost = jnp.where(finite, 0, 1).astype(in_all.dtype)
    return jnp.stack([in_all + lost, (in_a_row + lost) * lost])
