"""Convolutions as matrix products, for cases in which XLA's CPU backend has no fast routine.

XLA computes a kernel gradient as a convolution whose window is as large as the output.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

CACHE_ENTRIES = 2**17  # entries in one operand of a product: 512 KiB in float32
# Minimum output positions, window width times input channels, and output channels. Below any of
# them XLA's kernel gradient is about as fast, and its program compiles sooner.
MIN_POSITIONS, MIN_COLUMNS, MIN_ROWS = 144, 16, 32

Steps = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def is_faster(inputs: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """True if ``convolution`` is faster than XLA's on a CPU, for values and input gradients.

    It is faster for 1x1 kernels, and for input or output maps that are smaller than the kernel.
    For small maps XLA loops over positions, which is up to 80 times slower.

    Args:
        inputs: Shape [N, H, W, C] of the inputs.
        kernel: Shape [h, w, C, D] of the kernel.
        outputs: Shape [N, H', W', D] of the outputs.
    """
    window = kernel[:2]
    sides = zip(inputs[1:3], outputs[1:3], window, strict=True)
    return window == (1, 1) or any(min(before, after) < taps for before, after, taps in sides)


def convolution(
    inputs: jax.Array, kernel: jax.Array, strides: Steps, pads: Pairs, precision: Any
) -> jax.Array:
    """Convolution as one matrix product of concatenated patches and the flattened kernel.

    Args:
        inputs: Images or feature maps, float [N, H, W, C].
        kernel: Kernel, float [h, w, C, D].
        strides: Strides of height and width, in positions.
        pads: (before, after) for height and width; a negative pad crops, as in XLA.
        precision: Matrix product precision, passed to ``jax.numpy.dot``.

    Returns:
        Outputs, float [N, H', W', D].
    """
    height, width = kernel.shape[:2]
    zero = jnp.zeros((), inputs.dtype)
    x = lax.pad(inputs, zero, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1  # before striding
    shifted = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(shifted, axis=3)
    return jnp.dot(patches, kernel.reshape(-1, kernel.shape[3]), precision=precision)


def is_gradient_faster(kernel: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """True if ``kernel_gradient`` is faster than XLA's on a CPU; arguments are array shapes."""
    height, width, channels, out = kernel
    if (height, width) == (1, 1):
        return True
    positions = math.prod(outputs[1:3])
    return positions >= MIN_POSITIONS and width * channels >= MIN_COLUMNS and out >= MIN_ROWS


def kernel_gradient(
    inputs: jax.Array,
    gradient: jax.Array,
    window: tuple[int, ...],
    strides: Steps,
    pads: Pairs,
) -> jax.Array:
    """Gradient of a convolution with respect to its kernel, by matrix products.

    A loop processes a few images per iteration, so that the patches stay in the processor's cache.
    Processing all images at once would allocate new memory pages for every tap, and the first write
    to them alone costs more than the products.

    Args:
        inputs: Inputs of the convolution, float [N, H, W, C].
        gradient: Gradient with respect to the outputs, float [N, H', W', D].
        window: Height and width of the kernel, in positions.
        strides: Strides of height and width, in positions.
        pads: (before, after) for height and width; a negative pad crops, as in XLA.

    Returns:
        Gradient [h, w, C, D], float32 or wider.
    """
    dtype = jnp.promote_types(jnp.promote_types(inputs.dtype, gradient.dtype), jnp.float32)
    batch, height, width, out = gradient.shape
    channels = inputs.shape[3]
    chunk_size = (
        batch if window == (1, 1) else _chunk_size(batch, height * width, max(channels, out))
    )
    rows, columns = strides[0] * (height - 1) + 1, strides[1] * (width - 1) + 1

    def chunk_gradient(x: jax.Array, g: jax.Array) -> list[jax.Array]:
        """Gradient of one chunk: a matrix [D, w C] per row of the kernel."""
        # This axis order needs one transposition; XLA folds a matrix transpose into the product.
        g = g.astype(dtype).reshape(chunk_size, -1, out).transpose(2, 0, 1).reshape(out, -1)
        zero = jnp.zeros((), dtype)
        x = lax.pad(x.astype(dtype), zero, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
        x = lax.optimization_barrier(x)
        shifted = [x[:, :, j : j + columns : strides[1]] for j in range(window[1])]
        x = jnp.concatenate(shifted, axis=3)
        return [
            g @ x[:, i : i + rows : strides[0]].reshape(-1, window[1] * channels)
            for i in range(window[0])
        ]

    def split(values: jax.Array) -> jax.Array:
        return values.reshape(-1, chunk_size, *values.shape[1:])

    if chunk_size == batch:
        rows_of_kernel = chunk_gradient(inputs, gradient)
    else:
        zeros = [jnp.zeros((out, window[1] * channels), dtype)] * window[0]
        rows_of_kernel, _ = lax.scan(
            lambda total, chunk: (jax.tree.map(jnp.add, total, chunk_gradient(*chunk)), None),
            zeros,
            (split(inputs), split(gradient)),
        )
    stacked = jnp.stack(rows_of_kernel).reshape(window[0], out, window[1], channels)
    return stacked.transpose(0, 2, 3, 1)


def _chunk_size(batch: int, positions: int, channels: int) -> int:
    """Images per iteration: a divisor of the batch that gives the products enough rows."""
    rows = max(CACHE_ENTRIES // channels, 2 * channels)
    candidates = (n for n in range(1, batch) if batch % n == 0 and n * positions >= rows)
    return next(candidates, batch)
