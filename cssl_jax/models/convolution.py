"""A convolution whose kernel gradient is fast on CPUs; on other devices it is XLA's own.

XLA's CPU backend computes the gradient with respect to the kernel as a convolution whose window is
as large as the output, which it has no fast routine for. Here it is one matrix product per kernel
tap: the part of the padded input that the tap sees, times the output's gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
CACHED = 2**17  # numbers in one operand of a product: 512 KiB in float32
# Below any of these XLA's kernel gradient is about as fast, and its program compiles sooner.
POSITIONS, COLUMNS, ROWS = 144, 16, 32

Steps = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


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

    Values and the input's gradient are XLA's on every device. On CPUs the kernel's gradient is
    computed tap by tap, in at least float32. Only reverse-mode differentiation is defined; inside
    ``shard_map`` with ``check_vma=False``, as ``parallel.data_parallel`` has it.

    Args:
        inputs: [N, H, W, C].
        kernel: [h, w, C, D].
        window_strides: Strides of height and width.
        padding: "SAME", "VALID", or (before, after) for height and width.
        precision: As in ``lax.conv_general_dilated``.
        others: Dilations, groups and layout, as in ``lax.conv_general_dilated``. Whatever differs
            from a plain convolution of [N, H, W, C] goes to XLA altogether.

    Returns:
        [N, H', W', D].
    """
    if not _plain(inputs, kernel, others):
        return lax.conv_general_dilated(
            inputs, kernel, window_strides, padding, precision=precision, **others
        )
    strides = tuple(int(stride) for stride in window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _convolution(inputs, kernel, strides, pads, precision)


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


def _by_product(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    """One matrix product with all that the kernel sees side by side."""
    height, width = kernel.shape[:2]
    zero = jnp.zeros((), inputs.dtype)
    x = lax.pad(inputs, zero, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1  # before the stride
    seen = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(seen, axis=3)
    return jnp.dot(patches, kernel.reshape(-1, kernel.shape[3]), precision=precision)


def _on_cpu(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    """By one product where XLA's CPU backend is slow.

    That is for 1x1 kernels, and for maps of inputs or outputs smaller than the kernel, where it has
    nothing but a loop over positions, up to 80 times slower.
    """
    window = kernel.shape[:2]
    outputs = jax.eval_shape(lambda: _by_xla(inputs, kernel, strides, pads, precision)).shape[1:3]
    small = any(
        min(sides) < w for *sides, w in zip(inputs.shape[1:3], outputs, window, strict=True)
    )
    function = _by_product if window == (1, 1) or small else _by_xla
    return function(inputs, kernel, strides, pads, precision)


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
        if _worthwhile(k.shape, g.shape):
            of_kernel = kernel_gradient(x, g, k.shape[:2], strides, pads).astype(k.dtype)
        return of_inputs, of_kernel

    return lax.platform_dependent(*kept, gradient, cpu=of_cpu, default=of_xla)


_convolution.defvjp(_forward, _backward)


def kernel_gradient(
    inputs: jax.Array,
    gradient: jax.Array,
    window: tuple[int, ...],
    strides: Steps,
    pads: Pairs,
) -> jax.Array:
    """Gradient of a convolution with respect to its kernel, by matrix products.

    A loop takes a few images at a time, so that what the taps see stays in the processor's cache.
    All images at once would take fresh pages of memory for every tap, whose first touch alone costs
    more than the products.

    Args:
        inputs: [N, H, W, C].
        gradient: With respect to the output, [N, H', W', D].
        window: Height and width of the kernel.
        strides: Strides of height and width.
        pads: (before, after) for height and width; a negative pad crops, as in XLA.

    Returns:
        [h, w, C, D], in at least float32.
    """
    kind = jnp.promote_types(jnp.promote_types(inputs.dtype, gradient.dtype), jnp.float32)
    batch, height, width, out = gradient.shape
    channels = inputs.shape[3]
    few = batch if window == (1, 1) else _images(batch, height * width, max(channels, out))
    rows, columns = strides[0] * (height - 1) + 1, strides[1] * (width - 1) + 1

    def of_images(x: jax.Array, g: jax.Array) -> list[jax.Array]:
        """Gradient of a few images: for every row of the kernel [D, w C]."""
        # In this order of axes XLA transposes once; a matrix's transpose it folds into products.
        g = g.astype(kind).reshape(few, -1, out).transpose(2, 0, 1).reshape(out, -1)
        zero = jnp.zeros((), kind)
        x = lax.pad(x.astype(kind), zero, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
        x = lax.optimization_barrier(x)
        seen = [x[:, :, j : j + columns : strides[1]] for j in range(window[1])]
        x = jnp.concatenate(seen, axis=3)
        return [
            g @ x[:, i : i + rows : strides[0]].reshape(-1, window[1] * channels)
            for i in range(window[0])
        ]

    def parts(values: jax.Array) -> jax.Array:
        return values.reshape(-1, few, *values.shape[1:])

    if few == batch:
        rows_of_kernel = of_images(inputs, gradient)
    else:
        zeros = [jnp.zeros((out, window[1] * channels), kind)] * window[0]
        rows_of_kernel, _ = lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, of_images(*part)), None),
            zeros,
            (parts(inputs), parts(gradient)),
        )
    stacked = jnp.stack(rows_of_kernel).reshape(window[0], out, window[1], channels)
    return stacked.transpose(0, 2, 3, 1)


def _worthwhile(kernel: tuple[int, ...], gradient: tuple[int, ...]) -> bool:
    """Whether ``kernel_gradient`` beats what XLA makes of the same shapes."""
    height, width, channels, out = kernel
    if (height, width) == (1, 1):
        return True
    positions = math.prod(gradient[1:3])
    return positions >= POSITIONS and width * channels >= COLUMNS and out >= ROWS


def _images(batch: int, positions: int, channels: int) -> int:
    """Images to take at a time: a divisor of the batch that gives the products enough rows."""
    rows = max(CACHED // channels, 2 * channels)
    enough = (n for n in range(1, batch) if batch % n == 0 and n * positions >= rows)
    return next(enough, batch)
