"""Training step of all methods: per-device code over one named axis."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssl_jax.methods.base import Method, PyTree
from cssl_jax.optim.groups import Groups, without_frozen
from cssl_jax.optim.norms import group_norms, square_sums
from cssl_jax.optim.step_counter import select_state
from cssl_jax.step.grad_cache import MakeBatch, StepOptions, make_gradient
from cssl_jax.step.state import TrainState

Metrics = dict[str, jax.Array]
NORMS = ("parameters", "gradient")  # meaning of the rows of metrics["norms"]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    make_batch: MakeBatch,
    options: StepOptions,
    *,
    extra_metrics: Callable[[PyTree, PyTree, jax.Array], Metrics] | None = None,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]:
    """Builds ``(state, constants, host_batch) -> (state, metrics)`` for ``spmd.data_parallel``.

    An update with a non-finite loss, gradient or method_state is skipped. The step still counts,
    but parameters, statistics, method_state and optimizer state keep their values. The training
    loop decides how to continue.

    Args:
        method: Method that defines encoder and objective.
        optimizer: Transformation from ``optimizers.make_optimizer``.
        schedule: Learning-rate schedule of the optimizer, reported in the metrics.
        make_batch: ``(step, constants, host_batch) -> batch``, run on the device; see
            ``data.pipeline.base``.
        options: Facts about the run.
        extra_metrics: ``(gradient, params, step) -> additional metrics``; see
            ``optim.trust_metrics``. None: no additional metrics.

    Returns:
        Function whose metrics are replicated and computed before the update. They are float
        scalars, "finite" (bool scalar, False if the update was skipped), "skipped" (see
        ``TrainState``) and "norms" (float [2, groups], rows ``NORMS``, columns
        ``norms.parameter_groups``).
    """
    gradient = make_gradient(method, make_batch, options)
    groups = Groups(group_of=method.parameter_group, steps_per_epoch=options.steps_per_epoch)

    def train_step(
        state: TrainState, constants: PyTree, host_batch: PyTree
    ) -> tuple[TrainState, Metrics]:
        grads, outputs = gradient(state, constants, host_batch)
        grads = without_frozen(grads, state.step, groups)
        with jax.named_scope("journal"):
            squares = square_sums(grads)
            gradient_norm = jnp.sqrt(jnp.sum(squares))
            norms = jnp.stack(
                [
                    group_norms(square_sums(state.params), state.params),
                    group_norms(squares, grads),
                ]
            )
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        ctx = options.context(state.step)
        params = method.project(optax.apply_updates(state.params, updates), ctx)
        method_state = method.after_update(params, state.method_state, outputs, ctx)
        finite = jnp.isfinite(outputs.metrics["loss"]) & jnp.isfinite(gradient_norm)
        finite = _all_finite(method_state, finite)
        new_state = TrainState(
            step=state.step + 1,
            params=_select(finite, params, state.params),
            model_state=_select(finite, outputs.model_state, state.model_state),
            method_state=_select(finite, method_state, state.method_state),
            opt_state=_select_opt_state(finite, opt_state, state.opt_state),
            skipped=_count_skipped(finite, state.skipped),
        )
        # A leaf of another type would compile a second program at the next step.
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        metrics = {
            **outputs.metrics,
            "gradient_norm": gradient_norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "finite": finite,
            "skipped": new_state.skipped,
            "norms": norms,
        }
        if extra_metrics is not None:
            with jax.named_scope("journal"):
                metrics |= extra_metrics(grads, state.params, state.step)
        return new_state, metrics

    return train_step


def _all_finite(tree: PyTree, start: jax.Array) -> jax.Array:
    """``start`` and True for a tree whose float leaves have finite entries only.

    A value that is not finite may enter a queue, a centre or a momentum copy while loss and
    gradient are still finite, and would then stay.
    """
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            start &= jnp.all(jnp.isfinite(leaf))
    return start


def _select(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    with jax.named_scope("finite"):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def _select_opt_state(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Optimizer state after a step; schedule counters advance even if the update is skipped."""
    with jax.named_scope("finite"):
        return select_state(finite, new, old)


def _count_skipped(finite: jax.Array, skipped: jax.Array | np.ndarray) -> jax.Array:
    """Updates ``TrainState.skipped`` after one more step."""
    total, consecutive = skipped
    increment = jnp.where(finite, 0, 1).astype(total.dtype)
    return jnp.stack([total + increment, (consecutive + increment) * increment])
