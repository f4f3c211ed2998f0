"""Matrix products in place of convolutions, for what XLA's CPU backend has no fast routine for.

XLA computes kernel gradients as a convolution whose window is as large as the output.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

CACHED = 2**17  # numbers in one operand of a product: 512 KiB in float32
# Below any of these XLA's kernel gradient is about as fast, and its program compiles sooner.
POSITIONS, COLUMNS, ROWS = 144, 16, 32

Steps = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def suits(inputs: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """Whether ``convolution`` is faster than XLA's on a CPU, for values and inputs' gradients.

    That is so for 1x1 kernels, and for maps of inputs or outputs that are smaller than the kernel,
    where XLA has nothing but a loop over positions, up to 80 times slower. Arguments are shapes.
    """
    window = kernel[:2]
    sides = zip(inputs[1:3], outputs[1:3], window, strict=True)
    return window == (1, 1) or any(min(before, after) < taps for before, after, taps in sides)


def convolution(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    """A convolution as one product with all that the kernel sees side by side.

    Args:
        inputs: [N, H, W, C].
        kernel: [h, w, C, D].
        strides: Strides of height and width.
        pads: (before, after) for height and width; a negative pad crops, as in XLA.
        precision: Passed on to ``jax.numpy.dot``.

    Returns:
        [N, H', W', D].
    """
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


def gradient_suits(kernel: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """Whether ``kernel_gradient`` is faster than XLA's on a CPU. Arguments are shapes."""
    height, width, channels, out = kernel
    if (height, width) == (1, 1):
        return True
    positions = math.prod(outputs[1:3])
    return positions >= POSITIONS and width * channels >= COLUMNS and out >= ROWS


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


def _images(batch: int, positions: int, channels: int) -> int:
    """Images to take at a time: a divisor of the batch that gives the products enough rows."""
    rows = max(CACHED // channels, 2 * channels)
    enough = (n for n in range(1, batch) if batch % n == 0 and n * positions >= rows)
    return next(enough, batch)
