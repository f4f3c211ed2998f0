"""Max-pooling whose gradient is a sum in a fixed order, not a scatter."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Largest entry of every window, as ``flax.linen.max_pool``.

    The gradient of Flax's is XLA's select-and-scatter: on GPUs its sums are atomic, in an order of
    their own, and on CPUs a loop over single elements. Here it is a sum of ``window`` ** 2 arrays,
    to the same bits on every backend, by the same rule: of equal entries the first, row by row,
    has the gradient. A window that holds NaN passes none on. Reverse mode only.

    Args:
        x: float [n, H, W, C].
        window: Height and width of a window.
        stride: Between windows.
        padding: Rows and columns of minus infinity on each side.

    Returns:
        [n, (H + 2 padding - window) // stride + 1, likewise of W, C], of the type of ``x``.
    """
    sides = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=sides)


def _forward(
    x: jax.Array, window: int, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = max_pool(x, window, stride, padding)
    return largest, (x, largest)


def _backward(
    window: int, stride: int, padding: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    x, largest = kept
    n, rows, columns, channels = largest.shape
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(x, sides, constant_values=-jnp.inf)
    # Places within a window, the last first: the first maximum is what is written over the others,
    # and an entry that several windows share sums their gradients in the order of the windows.
    places = list(enumerate(itertools.product(range(window), repeat=2)))[::-1]
    first = jnp.full(largest.shape, -1, jnp.int16)
    for number, (i, j) in places:
        end = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
        entry = lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1))
        first = jnp.where(entry == largest, number, first)
    # Rows and columns of one remainder by the stride have the same places of the windows: a sum
    # for each pair of remainders, woven together at the end, computes no zeros between them.
    tall, wide = (-(-size // stride) for size in padded.shape[1:3])
    zeros = jnp.zeros((n, tall, wide, channels), gradient.dtype)
    sums = dict.fromkeys(itertools.product(range(stride), repeat=2), zeros)
    for number, (i, j) in places:
        down, right = i // stride, j // stride
        moved = ((0, 0), (down, tall - rows - down), (right, wide - columns - right), (0, 0))
        sums[i % stride, j % stride] += jnp.pad(jnp.where(first == number, gradient, 0), moved)
    lines = [jnp.stack([sums[a, b] for b in range(stride)], axis=3) for a in range(stride)]
    whole = jnp.stack(lines, axis=2).reshape(n, tall * stride, wide * stride, channels)
    return (whole[:, padding : padding + x.shape[1], padding : padding + x.shape[2]],)


max_pool.defvjp(_forward, _backward)
