"""Builds the first ``TrainState`` of an experiment, or its shapes alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.methods.base import Method
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.step.state import TrainState

TEACHER = "teacher"  # part of the method_state, see ``Method.teacher``


def init_state(
    method: Method, optimizer: optax.GradientTransformation, spec: InputSpec, seed: int
) -> TrainState:
    """Initial state; a function of the seed alone."""
    draw = _compiled(method, spec, jax.default_backend())
    params, model_state, method_state = draw(jax.random.key(seed))
    opt_state = jax.jit(optimizer.init)(params)
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, method_state, opt_state)


def with_model(method: Method, state: TrainState, model: dict[str, Any]) -> TrainState:
    """A first state with other weights, whose method_state starts from these weights too."""
    method_state = jax.jit(method.start)(model["params"], model["model_state"])
    if method.teacher is not None:
        method_state = {**method_state, TEACHER: state.method_state[TEACHER]}
    return state.replace(**model, method_state=method_state)


def with_teacher(state: TrainState, variables: dict[str, Any]) -> TrainState:
    """A first state whose teacher has these variables {"params", "model_state"}."""
    return state.replace(method_state={**state.method_state, TEACHER: variables})


def state_shapes(
    method: Method, optimizer: optax.GradientTransformation, spec: InputSpec
) -> TrainState:
    """Shapes of ``init_state``'s result as ``jax.ShapeDtypeStruct``, without compiling."""
    draw = _drawing(method, spec)
    params, model_state, method_state = jax.eval_shape(draw, jax.random.key(0))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(step, params, model_state, method_state, opt_state)


# JAX caches traces by the identity of a function. Runs in one process, as in a sweep, mostly have
# equal methods, which share their traces through these caches.
@functools.lru_cache(maxsize=8)
def _drawing(method: Method, spec: InputSpec) -> Callable[[jax.Array], Any]:
    """Function from a key to (params, model_state, method_state)."""
    zeros = modality_entry(spec.kind).zeros
    views = {
        name: zeros(spec, group.size or spec.size, 2, group.count)
        for name, group in method.views.items()
    }

    def draw(key: jax.Array) -> Any:
        params, model_state = method.init(key, {"views": views})
        method_state = method.start(params, model_state)
        if method.teacher is not None:
            weights = method.teacher.init(jax.random.fold_in(key, 1), {"views": views})
            teacher = dict(zip(("params", "model_state"), weights, strict=True))
            method_state = {**method_state, TEACHER: teacher}
        return params, model_state, method_state

    return draw


@functools.lru_cache(maxsize=8)
def _compiled(method: Method, spec: InputSpec, backend: str) -> Callable[[jax.Array], Any]:
    # Random draws compile slowly on CPU (a minute for ResNet-50 under jax 0.12) and run once.
    quick = {"xla_backend_optimization_level": 0} if backend == "cpu" else None
    return jax.jit(_drawing(method, spec), compiler_options=quick)
