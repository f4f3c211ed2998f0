"""Training step of all methods: per-device code over one named axis."""

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
NORMS = ("parameters", "gradient")  # meaning of the rows of metrics["norms"]


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
    extra_metrics: Callable[[PyTree, PyTree], Metrics] | None = None,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]:
    """Builds ``(state, constants, host_batch) -> (state, metrics)`` for ``spmd.data_parallel``.

    An update with a non-finite loss or gradient is skipped. The step still counts, but parameters,
    statistics and optimizer state keep their values. The training loop decides how to continue.

    Args:
        method: Method that defines encoder and objective.
        optimizer: Transformation from ``optimizers.make_optimizer``.
        schedule: Learning-rate schedule of the optimizer, reported in the metrics.
        make_batch: ``(step, constants, host_batch) -> batch``, run on the device; see
            ``data.pipeline.base``.
        total_steps: Number of steps of the run.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        micro_batches: Number of micro-batches; see ``make_gradient``. 1: encode all rows at once.
        frozen_norm: True to use the running statistics of BatchNorm without updating them; see
            ``Context``.
        extra_metrics: ``(gradient, params) -> additional metrics``; see ``optim.trust_ratio``.
            None: no additional metrics.

    Returns:
        Function whose metrics are replicated and computed before the update. They are float
        scalars, "finite" (bool scalar, False if the update was skipped), "skipped" (see
        ``TrainState``) and "norms" (float [2, groups], rows ``NORMS``, columns
        ``norms.parameter_groups``).
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
            # True means fully trainable and needs no multiplication in the compiled program.
            updates = jax.tree_util.tree_map_with_path(
                lambda path, u: (
                    u if (fraction := method.trainable(path, state.step)) is True else u * fraction
                ),
                updates,
            )
        params = _select(finite, optax.apply_updates(state.params, updates), state.params)
        ctx = Context(state.step, total_steps, axis_name, frozen_norm=frozen_norm)
        method_state = method.after_update(params, state.method_state, aux, ctx)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=_select(finite, aux["model_state"], state.model_state),
            method_state=_select(finite, method_state, state.method_state),
            opt_state=_select_opt_state(finite, opt_state, state.opt_state),
            skipped=_count_skipped(finite, state.skipped),
        )
        metrics = {
            **aux["metrics"],
            "gradient_norm": gradient_norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "finite": finite,
            "skipped": new_state.skipped,
            "norms": norms,
        }
        if extra_metrics is not None:
            with jax.named_scope("journal"):
                metrics |= extra_metrics(grads, state.params)
        return new_state, metrics

    return train_step


def _select(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    with jax.named_scope("finite"):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _select_opt_state(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Optimizer state after a step; schedule counters advance even if the update is skipped."""
    return jax.tree.map(
        lambda n, o: n if is_schedule(n) else _select(finite, n, o), new, old, is_leaf=is_schedule
    )


def _count_skipped(finite: jax.Array, skipped: jax.Array | np.ndarray) -> jax.Array:
    """Updates ``TrainState.skipped`` after one more step."""
    total, consecutive = skipped
    increment = jnp.where(finite, 0, 1).astype(total.dtype)
    return jnp.stack([total + increment, (consecutive + increment) * increment])
