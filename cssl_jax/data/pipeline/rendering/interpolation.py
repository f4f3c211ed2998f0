"""Interpolation without antialiasing for images of any size.

NumPy gathers the input pixels and compiled JAX weights them. The images have varying shapes and a
compiled function has fixed ones. The set of input pixels per output pixel has a fixed shape.
"""

import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from cssl_jax.augment.image.geometry import KERNELS

REACH = {"bilinear": 1, "bicubic": 2}  # input pixels read on either side of an output pixel


class Taps(NamedTuple):
    """Input pixels that each output pixel of a resized square reads, and their weights.

    T is the number of taps per axis, twice ``REACH``.

    Attributes:
        pixels: uint32 [..., T, T, size, size], packed by ``pack``. Row taps are the first axis.
        row_weights: float32 [..., T, size], weights of the row taps, which sum to 1 over T.
        column_weights: float32 [..., T, size], weights of the column taps, which sum to 1 over T.
    """

    pixels: np.ndarray
    row_weights: np.ndarray
    column_weights: np.ndarray

    @staticmethod
    def shapes(views: int, size: int, interpolation: str) -> "Taps":
        """Shapes and dtypes of the taps of several views, as ``jax.ShapeDtypeStruct``."""
        taps = 2 * REACH[interpolation]
        weights = jax.ShapeDtypeStruct((views, taps, size), np.float32)
        pixels = jax.ShapeDtypeStruct((views, taps, taps, size, size), np.uint32)
        return Taps(pixels, weights, weights)  # type: ignore[arg-type]


def pack(image: np.ndarray) -> np.ndarray:
    """Packs the channels of each pixel into one number: uint8 [h, w, C <= 4] -> uint32 [h, w]."""
    height, width, channels = image.shape
    if channels == 3:  # Pillow pads three bytes to four ten times faster than NumPy
        content = PIL.Image.fromarray(image).tobytes("raw", "RGBX")
        return np.frombuffer(content, np.uint32).reshape(height, width)
    packed = np.zeros((height, width, 4), np.uint8)
    packed[..., :channels] = image
    return packed.view(np.uint32)[..., 0]


def gather(packed: np.ndarray, boxes: np.ndarray, size: int, interpolation: str) -> Taps:
    """Gathers the input pixels and weights for resizing boxes of an image to squares.

    Pixel centres lie at half-integer coordinates. Taps outside a box have weight 0, and the weights
    of the others are renormalised.

    Args:
        packed: uint32 [h, w], image packed by ``pack``.
        boxes: int [views, 4], top, left, height and width of each box in pixels.
        size: Side of the output square in pixels.
        interpolation: Kernel, "bilinear" or "bicubic".

    Returns:
        Taps with a leading axis of views.
    """
    taps_per_axis = 2 * REACH[interpolation]
    pixels = np.empty((len(boxes), taps_per_axis, taps_per_axis, size, size), np.uint32)
    row_weights, column_weights = np.empty((2, len(boxes), taps_per_axis, size), np.float32)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        rows, row_weights[i] = tap_positions(height, size, interpolation)
        columns, column_weights[i] = tap_positions(width, size, interpolation)
        columns += left
        for row_pixels, row in zip(pixels[i], rows + top, strict=True):
            selected = packed.take(row, 0)  # whole rows first: each row is one contiguous copy
            for out, column in zip(row_pixels, columns, strict=True):
                # Every index is valid; the default mode "raise" would buffer the output.
                selected.take(column, 1, out=out, mode="clip")
    return Taps(pixels, row_weights, column_weights)


def tap_positions(
    length: int, size: int, interpolation: str, antialias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Input pixels that each output pixel reads along one axis, and their weights.

    Pixel centres lie at half-integer coordinates. A tap beyond the border has weight 0, and the
    weights of the others sum to 1.

    Args:
        length: Number of input pixels along the axis.
        size: Number of output pixels along the axis.
        interpolation: Kernel, "bilinear" or "bicubic".
        antialias: True to widen the kernel in proportion to the reduction.

    Returns:
        Positions int [T, size] within [0, length), and weights float32 [T, size].
    """
    stretch = max(length / size, 1.0) if antialias else 1.0
    reach = math.ceil(REACH[interpolation] * stretch)
    centres = (np.arange(size) + 0.5) * (length / size) - 0.5
    taps = np.floor(centres).astype(int) + np.arange(1 - reach, reach + 1)[:, None]
    weights = KERNELS[interpolation](np.abs(taps - centres) / stretch, np)
    weights = np.where((taps >= 0) & (taps < length), weights, 0.0)
    return taps.clip(0, length - 1), (weights / weights.sum(axis=0)).astype(np.float32)


def weigh(taps: Taps, channels: int) -> jax.Array:
    """Weighted sum of the taps of one view.

    Args:
        taps: Taps of one view, without the axis of views.
        channels: Number of image channels, at most 4.

    Returns:
        float32 [channels, size, size] in [0, 255]; clipped, since the bicubic kernel overshoots.
    """
    # The first channel is the first byte in memory: the lowest bits on a little-endian machine.
    byte_numbers = range(channels) if sys.byteorder == "little" else range(3, 3 - channels, -1)
    shifts = 8 * jnp.array(byte_numbers, jnp.uint32)[:, None, None]
    total = jnp.zeros((), jnp.float32)
    for pixel_row, row_weight in zip(taps.pixels, taps.row_weights, strict=True):
        row_sum = jnp.zeros((), jnp.float32)
        for pixel, weight in zip(pixel_row, taps.column_weights, strict=True):
            row_sum += weight * ((pixel >> shifts) & 255).astype(jnp.float32)
        total += row_weight[:, None] * row_sum
    return jnp.clip(total, 0.0, 255.0)
