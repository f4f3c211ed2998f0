"""Gradient of the global batch, encoded at once or in micro-batches (GradCache)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.methods.base import Batch, Context, Method, PyTree
from cssl_jax.step.state import TrainState

MakeBatch = Callable[[jax.Array, PyTree, PyTree], Batch]
Gradient = tuple[PyTree, dict[str, Any]]  # (gradient of the parameters, aux of ``after_update``)


def make_gradient(
    method: Method,
    make_batch: MakeBatch,
    *,
    total_steps: int,
    axis_name: str | None,
    micro_batches: int = 1,
    frozen_norm: bool = False,
) -> Callable[[TrainState, PyTree, PyTree], Gradient]:
    """Builds ``(state, constants, host_batch) -> (gradient, aux)`` for the global batch.

    Each device differentiates its local loss, including collective calls: the derivative of a
    gather is a reduce-scatter. The gradients are then averaged over the axis, so the result is
    replicated.

    Args:
        method: Method that defines encoder and objective.
        make_batch: ``(step, constants, host_batch) -> batch``, run on the device; see
            ``data.pipeline.base``.
        total_steps: Number of steps of the run.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        micro_batches: Number of micro-batches that are encoded one after another. The rows of the
            host batch must be in the order of ``spmd.process_rows``. 1: encode all rows at once.
        frozen_norm: True to use the running statistics of BatchNorm without updating them; see
            ``Context``.

    Returns:
        Function that returns the gradient of the parameters and ``aux``, the auxiliary outputs
        ("metrics", "model_state", "outputs") for ``Method.after_update``.
    """

    def gradient(state: TrainState, constants: PyTree, host_batch: PyTree) -> Gradient:
        ctx = Context(state.step, total_steps, axis_name, frozen_norm=frozen_norm)

        def make(rows: PyTree) -> Batch:
            with jax.named_scope("views"):
                return make_batch(state.step, constants, rows)

        if micro_batches == 1:
            grads, aux = _at_once(method, state, make(host_batch), ctx)
        else:
            grads, aux = _in_micro_batches(method, state, make, host_batch, ctx, micro_batches)
        if axis_name is not None:
            grads, aux["metrics"] = jax.lax.pmean((grads, aux["metrics"]), axis_name)
        return grads, aux

    return gradient


def _at_once(method: Method, state: TrainState, batch: Batch, ctx: Context) -> Gradient:
    def loss(params: PyTree) -> tuple[jax.Array, dict[str, Any]]:
        outputs, model_state = method.encode(
            params, state.model_state, state.method_state, batch, ctx
        )
        with jax.named_scope("loss"):
            value, metrics = method.objective(
                params, state.method_state, outputs, _without_views(batch), ctx
            )
        return value, {"metrics": metrics, "model_state": model_state, "outputs": outputs}

    return jax.grad(loss, has_aux=True)(state.params)


def _in_micro_batches(
    method: Method,
    state: TrainState,
    make: Callable[[PyTree], Batch],
    host_batch: PyTree,
    ctx: Context,
    count: int,
) -> Gradient:
    """Gradient of ``_at_once``, holding views and activations of one micro-batch at a time.

    The algorithm is GradCache (Gao et al. 2021, arXiv 2101.06983, sec. 3):

    1. Encode every micro-batch and keep its outputs.
    2. Differentiate the objective with respect to all outputs.
    3. Create and encode every micro-batch again, and pull the cotangents of its outputs back.

    The result is exact, because all random draws depend on the examples' keys only and both passes
    start from the same running statistics. The change of the running statistics is averaged over
    the micro-batches. Sums over micro-batches are float32 or wider.
    """
    micro_batches = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), host_batch)

    def encode(params: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        return method.encode(params, state.model_state, state.method_state, batch, ctx)

    def forward(change: PyTree, rows: PyTree) -> tuple[PyTree, tuple[PyTree, Batch]]:
        batch = make(rows)
        outputs, model_state = encode(state.params, batch)
        change = jax.tree.map(
            lambda total, new, old: total + (new - old), change, model_state, state.model_state
        )
        return change, (outputs, _without_views(batch))

    change, cached = jax.lax.scan(
        forward, jax.tree.map(jnp.zeros_like, state.model_state), micro_batches
    )
    model_state = jax.tree.map(lambda old, total: old + total / count, state.model_state, change)
    outputs, examples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), cached)

    def objective(params: PyTree, outputs: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
        with jax.named_scope("loss"):
            return method.objective(params, state.method_state, outputs, examples, ctx)

    differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (direct, cotangents), metrics = differentiate(state.params, outputs)

    def backward(total: PyTree, rows_and_cotangent: tuple[PyTree, PyTree]) -> tuple[PyTree, None]:
        rows, cotangent = rows_and_cotangent
        batch = make(rows)
        _, pull_back, _ = jax.vjp(lambda params: encode(params, batch), state.params, has_aux=True)
        return jax.tree.map(jnp.add, total, *pull_back(cotangent)), None

    # ``direct`` is the gradient with respect to parameters of the objective, such as a temperature.
    start = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), direct)
    cotangents = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), cotangents)
    grads, _ = jax.lax.scan(backward, start, (micro_batches, cotangents))
    return grads, {"metrics": metrics, "model_state": model_state, "outputs": outputs}


def _without_views(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "views"}
