"""Max-pooling with a deterministic gradient: a sum in a fixed order instead of a scatter."""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Sides = tuple[tuple[int, int], tuple[int, int]]


def same_padding(shape: tuple[int, ...], window: int, stride: int) -> Sides:
    """Rows and columns that TensorFlow's "SAME" adds: ((above, below), (left, right)).

    The output has ceil(side / stride) positions. An odd number of additional rows has one more
    below than above, so that on even sides a window of 3 with stride 2 adds one row below and none
    above.

    Args:
        shape: Shape of feature maps [n, H, W, C].
        window: Height and width of a window, in positions.
        stride: Distance between windows, in positions.

    Example:
        >>> same_padding((1, 56, 57, 64), 3, 2)
        ((0, 1), (1, 1))
    """
    above, below = (
        (total // 2, total - total // 2)
        for total in (
            max((-(-side // stride) - 1) * stride + window - side, 0) for side in shape[1:3]
        )
    )
    return above, below


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, padding: int | Sides) -> jax.Array:
    """Largest entry of every window, with the values of ``flax.linen.max_pool``.

    The gradient of Flax's function is XLA's select-and-scatter. On GPUs it uses atomic additions in
    an arbitrary order, on CPUs a loop over single elements. The gradient here is a sum of
    ``window`` ** 2 arrays and has the same bits on every backend. Both follow the same rule: among
    equal entries, the first in row-major order receives the gradient. A window that contains NaN
    passes no gradient. Only reverse-mode differentiation is defined.

    Args:
        x: Feature maps, float [n, H, W, C].
        window: Height and width of a window, in positions.
        stride: Distance between windows, in positions.
        padding: Rows and columns of minus infinity on each side, or their numbers ((above, below),
            (left, right)), see ``same_padding``.

    Returns:
        Maxima, [n, H', W', C], in the dtype of ``x``. H' is (H + above + below - window) // stride
        + 1, and W' is computed from W in the same way.
    """
    chex.assert_rank(x, 4)
    sides = _sides(padding)
    maxima: jax.Array = nn.max_pool(x, (window, window), strides=(stride, stride), padding=sides)
    return maxima


def _sides(padding: int | Sides) -> Sides:
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def _forward(
    x: jax.Array, window: int, stride: int, padding: int | Sides
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = max_pool(x, window, stride, padding)
    return largest, (x, largest)


def _backward(
    window: int,
    stride: int,
    padding: int | Sides,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array]:
    x, largest = residuals
    n, rows, columns, channels = largest.shape
    (above, below), (left, right) = _sides(padding)
    sides = ((0, 0), (above, below), (left, right), (0, 0))
    padded = jnp.pad(x, sides, constant_values=-jnp.inf)
    # Offsets within a window in reverse order: the first maximum is written last and overwrites
    # the others. An entry of several windows sums their gradients in the order of the windows.
    offsets = list(enumerate(itertools.product(range(window), repeat=2)))[::-1]
    first = jnp.full(largest.shape, -1, jnp.int16)
    for number, (i, j) in offsets:
        end = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
        entry = lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1))
        first = jnp.where(entry == largest, number, first)
    # Rows and columns with the same remainder modulo the stride have the same offsets in windows.
    # One sum per pair of remainders, interleaved at the end, avoids computing zeros in between.
    tall, wide = (-(-size // stride) for size in padded.shape[1:3])
    zeros = jnp.zeros((n, tall, wide, channels), gradient.dtype)
    sums = dict.fromkeys(itertools.product(range(stride), repeat=2), zeros)
    for number, (i, j) in offsets:
        down, right = i // stride, j // stride
        pads = ((0, 0), (down, tall - rows - down), (right, wide - columns - right), (0, 0))
        sums[i % stride, j % stride] += jnp.pad(jnp.where(first == number, gradient, 0), pads)
    interleaved = [jnp.stack([sums[a, b] for b in range(stride)], axis=3) for a in range(stride)]
    padded_gradient = jnp.stack(interleaved, axis=2).reshape(
        n, tall * stride, wide * stride, channels
    )
    return (padded_gradient[:, above : above + x.shape[1], left : left + x.shape[2]],)


max_pool.defvjp(_forward, _backward)
