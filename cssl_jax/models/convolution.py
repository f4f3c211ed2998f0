"""Convolution of the encoders: XLA's, or matrix products where XLA's CPU backend is slow."""

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
    """Two-dimensional convolution for the argument ``conv_general_dilated`` of ``flax.linen.Conv``.

    On accelerators it is ``lax.conv_general_dilated``. On CPUs, ``products`` computes the kernel
    gradients of wide layers, 1x1 kernels, and maps that are smaller than the kernel. The results
    differ from XLA's by the order of additions only. Only reverse-mode differentiation is defined.
    Inside ``shard_map`` it needs ``check_vma=False``, as in ``spmd.data_parallel``.

    Args:
        inputs: Images or feature maps, float [N, H, W, C].
        kernel: Kernel, float [h, w, C, D].
        window_strides: Strides of height and width, in positions.
        padding: "SAME", "VALID", or (before, after) for height and width.
        precision: Precision of products, passed to ``lax.conv_general_dilated``.
        others: Dilations, groups and layout for ``lax.conv_general_dilated``. Any setting other
            than a plain convolution of [N, H, W, C] is computed by XLA alone.

    Returns:
        Outputs, float [N, H', W', D].
    """
    if _xla_only.get() or not _is_plain(inputs, kernel, others):
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
    """Context in which traced code uses XLA's convolution on CPUs too, as on accelerators."""
    token = _xla_only.set(True)
    try:
        yield
    finally:
        _xla_only.reset(token)


def _is_plain(inputs: jax.Array, kernel: jax.Array, others: dict[str, Any]) -> bool:
    others = dict(others)
    numbers = others.pop("dimension_numbers", None)
    if inputs.ndim != 4 or numbers is None:
        return False
    layouts = [
        lax.conv_dimension_numbers(inputs.shape, kernel.shape, layout)
        for layout in (numbers, LAYOUT)
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
    options = {"strides": strides, "pads": pads, "precision": precision}
    outputs = jax.eval_shape(lambda x, k: _by_xla(x, k, **options), inputs, kernel).shape
    if products.is_faster(inputs.shape, kernel.shape, outputs):
        return products.convolution(inputs, kernel, **options)
    return _by_xla(inputs, kernel, **options)


def _values(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    options = {"strides": strides, "pads": pads, "precision": precision}
    values: jax.Array = lax.platform_dependent(
        inputs,
        kernel,
        cpu=lambda x, k: _on_cpu(x, k, **options),
        default=lambda x, k: _by_xla(x, k, **options),
    )
    return values


_convolution = jax.custom_vjp(_values, nondiff_argnums=(2, 3, 4))


def _forward(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _values(inputs, kernel, strides, pads, precision), (inputs, kernel)


def _backward(
    strides: Steps,
    pads: Pairs,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    options = {"strides": strides, "pads": pads, "precision": precision}

    def by_xla(x: jax.Array, k: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        input_gradient, kernel_gradient = jax.vjp(lambda x, k: _by_xla(x, k, **options), x, k)[1](g)
        return input_gradient, kernel_gradient

    def on_cpu(x: jax.Array, k: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        input_gradient, kernel_gradient = jax.vjp(lambda x, k: _on_cpu(x, k, **options), x, k)[1](g)
        if products.is_gradient_faster(k.shape, g.shape):
            # XLA drops the unused kernel gradient of the vjp above as dead code.
            kernel_gradient = products.kernel_gradient(x, g, k.shape[:2], strides, pads)
        return input_gradient, kernel_gradient.astype(k.dtype)

    gradients: tuple[jax.Array, jax.Array] = lax.platform_dependent(
        *residuals, gradient, cpu=on_cpu, default=by_xla
    )
    return gradients


_convolution.defvjp(_forward, _backward)
