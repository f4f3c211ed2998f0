"""The gradient of the global batch, encoded at once or in micro-batches (GradCache)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.methods.base import Batch, Context, Method, PyTree
from cssl_jax.step.state import TrainState

MakeBatch = Callable[[jax.Array, PyTree, PyTree], Batch]
Gradient = tuple[PyTree, dict[str, Any]]  # of the parameters; and what ``after_update`` is given


def make_gradient(
    method: Method,
    make_batch: MakeBatch,
    *,
    total_steps: int,
    axis_name: str | None,
    micro_batches: int = 1,
    frozen_norm: bool = False,
) -> Callable[[TrainState, PyTree, PyTree], Gradient]:
    """Builds ``(state, constants, feed) -> (gradient, aux)`` of the global batch, replicated.

    Each device differentiates its own mean loss, collectives included (a gather becomes a
    reduce-scatter), and the gradients are averaged over the axis. ``aux`` is what
    ``Method.after_update`` is given.

    Args:
        method: The objective.
        make_batch: ``(step, constants, feed) -> batch`` on the device; see ``data.pipeline.base``.
        total_steps: Of the run.
        axis_name: Mapped axis, or None on a single device.
        micro_batches: Parts to encode one after another, by ``_in_micro_batches``; the feed's rows
            are in the order of ``spmd.process_rows``.
        frozen_norm: See ``Context``.
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
    """The same gradient with the views and activations of one micro-batch at a time.

    GradCache (Gao et al. 2021, arXiv 2101.06983, sec. 3): encode every micro-batch and keep its
    outputs; differentiate the objective of all outputs; make and encode every micro-batch once more
    and pull the outputs' cotangents back. Exact, as all draws come from the examples' keys and both
    passes start from the same running statistics, which the micro-batches then move by the average
    of their own. Sums over micro-batches are at least float32.
    """
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), host_batch)

    def encode(params: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        return method.encode(params, state.model_state, state.method_state, batch, ctx)

    def forward(change: PyTree, part: PyTree) -> tuple[PyTree, tuple[PyTree, Batch]]:
        batch = make(part)
        outputs, model_state = encode(state.params, batch)
        change = jax.tree.map(
            lambda total, new, old: total + (new - old), change, model_state, state.model_state
        )
        return change, (outputs, _without_views(batch))

    change, cached = jax.lax.scan(forward, jax.tree.map(jnp.zeros_like, state.model_state), parts)
    model_state = jax.tree.map(lambda old, total: old + total / count, state.model_state, change)
    outputs, examples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), cached)

    def objective(params: PyTree, outputs: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
        with jax.named_scope("loss"):
            return method.objective(params, state.method_state, outputs, examples, ctx)

    differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (direct, cotangents), metrics = differentiate(state.params, outputs)

    def backward(total: PyTree, part: tuple[PyTree, PyTree]) -> tuple[PyTree, None]:
        rows, cotangent = part
        batch = make(rows)
        _, pull_back, _ = jax.vjp(lambda params: encode(params, batch), state.params, has_aux=True)
        return jax.tree.map(jnp.add, total, *pull_back(cotangent)), None

    start = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), direct)
    cotangents = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), cotangents)
    grads, _ = jax.lax.scan(backward, start, (parts, cotangents))
    return grads, {"metrics": metrics, "model_state": model_state, "outputs": outputs}


def _without_views(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "views"}
