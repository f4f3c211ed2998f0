"""The convolution of the encoders: XLA's, but matrix products where its CPU backend is slow."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import lax

from cssl_jax.models import products
from cssl_jax.models.products import Pairs, Steps

LAYOUT = ("NHWC", "HWIO", "NHWC")
_xla_only = contextvars.ContextVar("xla_only", default=False)


def convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    precision: Any = None,
    **others: Any,
) -> jax.Array:
    """``lax.conv_general_dilated`` for ``flax.linen.Conv``'s argument of that name, two dimensions.

    On accelerators it is that function. On CPUs kernel gradients of wide layers, 1x1 kernels and
    maps smaller than the kernel are computed by ``products``, equal up to the order of sums. Only
    reverse-mode differentiation is defined; inside ``shard_map`` with ``check_vma=False``, as
    ``spmd.data_parallel`` has it.

    Args:
        inputs: [N, H, W, C].
        kernel: [h, w, C, D].
        window_strides: Strides of height and width.
        padding: "SAME", "VALID", or (before, after) for height and width.
        precision: Passed on to ``lax.conv_general_dilated``.
        others: Dilations, groups and layout for ``lax.conv_general_dilated``. Whatever differs
            from a plain convolution of [N, H, W, C] goes to XLA altogether.

    Returns:
        [N, H', W', D].
    """
    if _xla_only.get() or not _plain(inputs, kernel, others):
        return lax.conv_general_dilated(
            inputs, kernel, window_strides, padding, precision=precision, **others
        )
    strides = tuple(int(stride) for stride in window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _convolution(inputs, kernel, strides, pads, precision)


@contextlib.contextmanager
def xla_only() -> Iterator[None]:
    """What is traced inside has XLA's convolution on CPUs too, as accelerators' programs do."""
    token = _xla_only.set(True)
    try:
        yield
    finally:
        _xla_only.reset(token)


def _plain(inputs: jax.Array, kernel: jax.Array, others: dict[str, Any]) -> bool:
    others = dict(others)
    numbers = others.pop("dimension_numbers", None)
    if inputs.ndim != 4 or numbers is None:
        return False
    layouts = [
        lax.conv_dimension_numbers(inputs.shape, kernel.shape, given) for given in (numbers, LAYOUT)
    ]
    defaults = {"feature_group_count": 1, "batch_group_count": 1}
    dilations = [others.pop(name, None) for name in ("lhs_dilation", "rhs_dilation")]
    return (
        layouts[0] == layouts[1]
        and all(step == 1 for dilation in dilations for step in dilation or ())
        and all(value is None or value == defaults.get(name) for name, value in others.items())
    )


def _by_xla(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    return lax.conv_general_dilated(
        inputs, kernel, strides, pads, dimension_numbers=LAYOUT, precision=precision
    )


def _on_cpu(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    given = {"strides": strides, "pads": pads, "precision": precision}
    outputs = jax.eval_shape(lambda x, k: _by_xla(x, k, **given), inputs, kernel).shape
    if products.suits(inputs.shape, kernel.shape, outputs):
        return products.convolution(inputs, kernel, **given)
    return _by_xla(inputs, kernel, **given)


def _values(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    given = {"strides": strides, "pads": pads, "precision": precision}
    return lax.platform_dependent(
        inputs,
        kernel,
        cpu=lambda x, k: _on_cpu(x, k, **given),
        default=lambda x, k: _by_xla(x, k, **given),
    )


_convolution = jax.custom_vjp(_values, nondiff_argnums=(2, 3, 4))


def _forward(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _values(inputs, kernel, strides, pads, precision), (inputs, kernel)


def _backward(
    strides: Steps,
    pads: Pairs,
    precision: Any,
    kept: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    given = {"strides": strides, "pads": pads, "precision": precision}

    def of_xla(x: jax.Array, k: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, k: _by_xla(x, k, **given), x, k)[1](g)

    def of_cpu(x: jax.Array, k: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_inputs, of_kernel = jax.vjp(lambda x, k: _on_cpu(x, k, **given), x, k)[1](g)
        if products.gradient_suits(k.shape, g.shape):
            of_kernel = products.kernel_gradient(x, g, k.shape[:2], strides, pads).astype(k.dtype)
        return of_inputs, of_kernel

    return lax.platform_dependent(*kept, gradient, cpu=of_cpu, default=of_xla)


_convolution.defvjp(_forward, _backward)
