"""Plain interpolation of a picture of any size: pixels gathered here, weighed by compiled JAX.

A compiled function has fixed shapes and pictures have not; what an output pixel reads of them has.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from cssl_jax.augment.image.geometry import KERNELS

REACH = {"bilinear": 1, "bicubic": 2}  # pixels either side


class Taps(NamedTuple):
    """What the pixels of a resized square read, and its weights.

    Attributes:
        pixels: uint32 [..., T, T, size, size], packed by ``pack``; rows first.
        row_weights: float32 [..., T, size], of each row's taps; sum to 1.
        column_weights: float32 [..., T, size].
    """

    pixels: np.ndarray
    row_weights: np.ndarray
    column_weights: np.ndarray

    @staticmethod
    def shapes(views: int, size: int, interpolation: str) -> "Taps":
        """Of several views, as ``jax.ShapeDtypeStruct``."""
        taps = 2 * REACH[interpolation]
        weights = jax.ShapeDtypeStruct((views, taps, size), np.float32)
        pixels = jax.ShapeDtypeStruct((views, taps, taps, size, size), np.uint32)
        return Taps(pixels, weights, weights)  # type: ignore[arg-type]


def pack(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w, C], C at most 4, its bytes as one number a pixel, uint32 [h, w]."""
    height, width, channels = picture.shape
    if channels == 3:  # Pillow spreads three bytes over four ten times faster than NumPy
        content = PIL.Image.fromarray(picture).tobytes("raw", "RGBX")
        return np.frombuffer(content, np.uint32).reshape(height, width)
    packed = np.zeros((height, width, 4), np.uint8)
    packed[..., :channels] = picture
    return packed.view(np.uint32)[..., 0]


def gather(packed: np.ndarray, boxes: np.ndarray, size: int, interpolation: str) -> Taps:
    """Cuts boxes [views, 4] (top, left, height, width) out of ``packed`` [h, w].

    Half-pixel centres; taps outside the box weigh nothing, the others more in their place.

    Returns:
        Taps with a leading axis of views.
    """
    width = 2 * REACH[interpolation]
    pixels = np.empty((len(boxes), width, width, size, size), np.uint32)
    row_weights, column_weights = np.empty((2, len(boxes), width, size), np.float32)
    for i, (top, left, box_height, box_width) in enumerate(boxes.tolist()):
        rows, row_weights[i] = places(box_height, size, interpolation)
        columns, column_weights[i] = places(box_width, size, interpolation)
        columns += left
        for across, row in zip(pixels[i], rows + top, strict=True):
            chosen = packed.take(row, 0)  # whole rows first: they are copied in one piece each
            for out, column in zip(across, columns, strict=True):
                chosen.take(column, 1, out=out, mode="clip")  # all within; the default would copy
    return Taps(pixels, row_weights, column_weights)


def places(length: int, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that each output pixel reads along one axis, and their weights.

    Half-pixel centres; a tap beyond the border has weight 0, and the others sum to 1.

    Returns:
        Places int [T, size] within [0, length), weights float32 [T, size].
    """
    reach = REACH[interpolation]
    centres = (np.arange(size) + 0.5) * (length / size) - 0.5
    taps = np.floor(centres).astype(int) + np.arange(1 - reach, reach + 1)[:, None]
    weights = KERNELS[interpolation](np.abs(taps - centres), np)
    weights = np.where((taps >= 0) & (taps < length), weights, 0.0)
    return taps.clip(0, length - 1), (weights / weights.sum(axis=0)).astype(np.float32)


def weigh(taps: Taps, channels: int) -> jax.Array:
    """One view's square, float32 [channels, size, size] in [0, 255] (bicubic overshoots: cut)."""
    shifted = range(channels) if sys.byteorder == "little" else range(3, 3 - channels, -1)
    shifts = 8 * jnp.array(shifted, jnp.uint32)[:, None, None]
    total = jnp.zeros((), jnp.float32)
    for pixel_row, row_weight in zip(taps.pixels, taps.row_weights, strict=True):
        across = jnp.zeros((), jnp.float32)
        for pixel, weight in zip(pixel_row, taps.column_weights, strict=True):
            across += weight * ((pixel >> shifts) & 255).astype(jnp.float32)
        total += row_weight[:, None] * across
    return jnp.clip(total, 0.0, 255.0)
