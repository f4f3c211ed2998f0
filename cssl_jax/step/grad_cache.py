"""Gradient of the global batch, encoded at once or in micro-batches (GradCache)."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from cssl_jax.methods.base import Batch, Context, Method, PyTree, StepOutputs
from cssl_jax.step.state import TrainState

MakeBatch = Callable[[jax.Array, PyTree, PyTree], Batch]
Gradient = tuple[PyTree, StepOutputs]  # (gradient of the parameters, other results)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Facts about a run that its step is built from.

    Attributes:
        total_steps: Number of steps of the run.
        steps_per_epoch: Number of steps per epoch.
        seed: Seed of the run, for the random draws of ``Context.key``.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        micro_batches: Number of micro-batches that are encoded one after another. The rows of the
            host batch must be in the order of ``spmd.process_rows``. 1: encode all rows at once.
        frozen_norm: True to use the running statistics of BatchNorm without updating them.
    """

    total_steps: int
    steps_per_epoch: int = 1
    seed: int = 0
    axis_name: str | None
    micro_batches: int = 1
    frozen_norm: bool = False

    def context(self, step: jax.Array) -> Context:
        """Facts about one step, for the method."""
        return Context(step=step, **vars(self))


def make_gradient(
    method: Method, make_batch: MakeBatch, options: StepOptions
) -> Callable[[TrainState, PyTree, PyTree], Gradient]:
    """Builds ``(state, constants, host_batch) -> (gradient, outputs)`` for the global batch.

    Each device differentiates its local loss, including collective calls: the derivative of a
    gather is a reduce-scatter. The gradients are then averaged over the axis, so the result is
    replicated.

    Args:
        method: Method that defines encoder and objective.
        make_batch: ``(step, constants, host_batch) -> batch``, run on the device; see
            ``data.pipeline.base``.
        options: Facts about the run.

    Returns:
        Function that returns the gradient of the parameters and the arguments of
        ``Method.after_update``.
    """

    def gradient(state: TrainState, constants: PyTree, host_batch: PyTree) -> Gradient:
        ctx = options.context(state.step)

        def make(rows: PyTree) -> Batch:
            with jax.named_scope("views"):
                return make_batch(state.step, constants, rows)

        if options.micro_batches == 1:
            grads, outputs = _at_once(method, state, make(host_batch), ctx)
        else:
            chex.assert_equal_shape_prefix(jax.tree.leaves(host_batch), 1)
            micro_batches = jax.tree.map(
                lambda x: x.reshape(options.micro_batches, -1, *x.shape[1:]), host_batch
            )
            compute = _accumulated if method.separable else _cached
            grads, outputs = compute(method, state, make, micro_batches, ctx)
        if options.axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, outputs.metrics), options.axis_name)
            outputs = outputs._replace(metrics=metrics)
        return grads, outputs

    return gradient


def _at_once(method: Method, state: TrainState, batch: Batch, ctx: Context) -> Gradient:
    with jax.named_scope("targets"):
        targets, target_state = method.targets(
            state.params, state.model_state, state.method_state, batch, ctx
        )
    examples = _without_views(batch)

    def loss(params: PyTree) -> tuple[jax.Array, StepOutputs]:
        outputs, model_state = method.encode(
            params, state.model_state, state.method_state, batch, ctx
        )
        with jax.named_scope("loss"):
            value, metrics, carry = method.objective(
                params, state.method_state, outputs, {**examples, "targets": targets}, ctx
            )
        results = StepOutputs(metrics, model_state, outputs, targets, target_state, carry, examples)
        return value, results

    gradient, aux = jax.grad(loss, has_aux=True)(state.params)
    return gradient, aux


def _accumulated(
    method: Method,
    state: TrainState,
    make: Callable[[PyTree], Batch],
    micro_batches: PyTree,
    ctx: Context,
) -> Gradient:
    """Gradient of a separable loss: the mean over micro-batches, each of them encoded once.

    Metrics, running statistics, target_state and carry are averaged over the micro-batches as well.
    """
    within = ctx._replace(micro_batches=1)

    def add(total: PyTree, rows: PyTree) -> tuple[PyTree, StepOutputs]:
        grads, results = _at_once(method, state, make(rows), within)
        return jax.tree.map(jnp.add, total, grads), results

    start = jax.tree.map(_wide_zeros, state.params)
    total, results = jax.lax.scan(add, start, micro_batches)
    grads = jax.tree.map(lambda g: g / ctx.micro_batches, total)
    averaged = {
        name: jax.tree.map(lambda x: x.mean(axis=0), getattr(results, name))
        for name in ("metrics", "model_state", "target_state", "carry")
    }
    joined = {name: _joined(getattr(results, name)) for name in ("outputs", "targets", "examples")}
    return grads, StepOutputs(**averaged, **joined)


def _cached(
    method: Method,
    state: TrainState,
    make: Callable[[PyTree], Batch],
    micro_batches: PyTree,
    ctx: Context,
) -> Gradient:
    """Gradient of ``_at_once``, holding views and activations of one micro-batch at a time.

    The algorithm is GradCache (Gao et al. 2021, arXiv 2101.06983, sec. 3):

    1. Encode every micro-batch and keep its outputs and targets.
    2. Differentiate the objective with respect to all outputs.
    3. Create and encode every micro-batch again, and pull the cotangents of its outputs back.

    The result is exact, because all random draws depend on the examples' keys only and both passes
    start from the same running statistics. The change of the running statistics is averaged over
    the micro-batches. Sums over micro-batches are float32 or wider.
    """
    count, within = ctx.micro_batches, ctx._replace(micro_batches=1)

    def encode(params: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        return method.encode(params, state.model_state, state.method_state, batch, within)

    def forward(change: PyTree, rows: PyTree) -> tuple[PyTree, tuple[PyTree, ...]]:
        batch = make(rows)
        outputs, model_state = encode(state.params, batch)
        with jax.named_scope("targets"):
            targets, target_state = method.targets(
                state.params, state.model_state, state.method_state, batch, within
            )
        change = jax.tree.map(
            lambda total, new, old: total + (new - old), change, model_state, state.model_state
        )
        return change, (outputs, targets, target_state, _without_views(batch))

    change, (outputs, targets, target_state, examples) = jax.lax.scan(
        forward, jax.tree.map(jnp.zeros_like, state.model_state), micro_batches
    )
    model_state = jax.tree.map(lambda old, total: old + total / count, state.model_state, change)
    target_state = jax.tree.map(lambda x: x.mean(axis=0), target_state)
    outputs, targets, examples = _joined((outputs, targets, examples))

    def objective(params: PyTree, outputs: PyTree) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        with jax.named_scope("loss"):
            value, metrics, carry = method.objective(
                params, state.method_state, outputs, {**examples, "targets": targets}, ctx
            )
        return value, (metrics, carry)

    differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (direct, cotangents), (metrics, carry) = differentiate(state.params, outputs)

    def backward(total: PyTree, rows_and_cotangent: tuple[PyTree, PyTree]) -> tuple[PyTree, None]:
        rows, cotangent = rows_and_cotangent
        batch = make(rows)
        _, pull_back, _ = jax.vjp(lambda params: encode(params, batch), state.params, has_aux=True)
        return jax.tree.map(jnp.add, total, *pull_back(cotangent)), None

    # ``direct`` is the gradient with respect to parameters of the objective, such as a temperature.
    start = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), direct)
    cotangents = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), cotangents)
    grads, _ = jax.lax.scan(backward, start, (micro_batches, cotangents))
    return grads, StepOutputs(metrics, model_state, outputs, targets, target_state, carry, examples)


def _joined(tree: PyTree) -> PyTree:
    """Rows of all micro-batches after one another, [m, b, ...] -> [m b, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _wide_zeros(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))


def _without_views(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "views"}
