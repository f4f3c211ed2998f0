"""Batched crop, resize and affine maps; each image has its own box and matrix."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.image.policy import ImagePolicy


def crop_box(
    parameters: Parameters,
    height: jax.typing.ArrayLike,
    width: jax.typing.ArrayLike,
    *,
    policy: ImagePolicy,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Converts relative crop parameters to a box in pixels, as in torchvision's RandomResizedCrop.

    The box is the first candidate that fits the image. If none fits, it is the largest centred box
    with the nearest allowed aspect ratio. If the view is not cropped, it is the centre square, as
    in evaluation.

    Args:
        parameters: Crop parameters from ``policy.sample``: candidates [..., 10], the others [...].
        height: Height of the images in pixels: a scalar, or a shape that broadcasts to [...].
        width: Width of the images in pixels: a scalar, or a shape that broadcasts to [...].
        policy: Policy, which gives the allowed aspect ratios.

    Returns:
        Top, left, height and width of the boxes in pixels, int32 [...] each.
    """
    height, width = jnp.asarray(height), jnp.asarray(width)
    area = parameters["crop_area"] * (height * width)[..., None]
    ratio = jnp.exp(parameters["crop_log_ratio"])
    widths = jnp.round(jnp.sqrt(area * ratio))
    heights = jnp.round(jnp.sqrt(area / ratio))
    fits = (widths >= 1) & (widths <= width[..., None])
    fits &= (heights >= 1) & (heights <= height[..., None])
    first = jnp.argmax(fits, axis=-1)[..., None]
    nearest = jnp.clip(width / height, *policy.crop_ratio)
    nearest = jnp.where(parameters["crop"], nearest, 1.0)
    fallback_width = jnp.maximum(1, jnp.round(jnp.minimum(width, height * nearest)))
    fallback_height = jnp.maximum(1, jnp.round(jnp.minimum(height, width / nearest)))
    random = jnp.any(fits, axis=-1) & parameters["crop"]
    w = jnp.where(random, jnp.take_along_axis(widths, first, -1)[..., 0], fallback_width)
    h = jnp.where(random, jnp.take_along_axis(heights, first, -1)[..., 0], fallback_height)
    # A float below 1 times an integer never rounds up to that integer, so the box stays inside.
    top = jnp.where(random, jnp.floor(parameters["crop_y"] * (height - h + 1)), (height - h) // 2)
    left = jnp.where(random, jnp.floor(parameters["crop_x"] * (width - w + 1)), (width - w) // 2)
    return tuple(v.astype(jnp.int32) for v in (top, left, h, w))  # type: ignore[return-value]


def crop_and_resize(
    x: jax.Array,
    box: tuple[jax.Array, ...],
    size: int,
    interpolation: str,
    antialias: bool = True,
) -> jax.Array:
    """Crops each image to its box and resizes the crop to a square by two small matrix products.

    The result equals that of cropping and then resizing with a separable kernel: Pillow's
    ``resize`` with antialiasing, ``tf.image.resize`` with and without antialiasing. No pixel
    outside the box is read.

    Args:
        x: float [n, H, W, C] in [0, 1].
        box: Top, left, height and width in pixels, int [n] each.
        size: Side of the output in pixels.
        interpolation: Kernel, "bilinear" or "bicubic".
        antialias: True to widen the kernel in proportion to the reduction.

    Returns:
        float [n, size, size, C], clipped to [0, 1], since the bicubic kernel overshoots.
    """
    top, left, height, width = box

    def weights(start: jax.Array, length: jax.Array, in_size: int) -> jax.Array:
        matrix = functools.partial(resize_matrix, interpolation=interpolation, antialias=antialias)
        return jax.vmap(lambda s, n: matrix(s, n, in_size, size))(start, length).astype(x.dtype)

    highest = jax.lax.Precision.HIGHEST
    rows, columns = weights(top, height, x.shape[1]), weights(left, width, x.shape[2])
    y = jnp.einsum("nsh,nhwc->nswc", rows, x, precision=highest)
    y = jnp.einsum("ntw,nswc->nstc", columns, y, precision=highest)
    return jnp.clip(y, 0.0, 1.0)


def resize_matrix(
    start: jax.Array,
    length: jax.Array,
    in_size: int,
    out_size: int,
    interpolation: str,
    antialias: bool = True,
) -> jax.Array:
    """Matrix that resamples ``length`` input pixels along one axis to ``out_size`` pixels.

    Pixel centres lie at half-integer coordinates. The kernel is truncated at the ends of the range
    and renormalised, which for linear interpolation is the same as clamping to the border.

    Args:
        start: int scalar, first input pixel of the range.
        length: int scalar, number of input pixels in the range.
        in_size: Number of input pixels along the axis.
        out_size: Number of output pixels along the axis.
        interpolation: Kernel, "bilinear" or "bicubic".
        antialias: True to widen the kernel in proportion to the reduction.

    Returns:
        float [out_size, in_size], rows that sum to 1.
    """
    scale = length / out_size
    reach = jnp.maximum(scale, 1.0) if antialias else 1.0
    pixels = jnp.arange(in_size)
    centres = start + (jnp.arange(out_size) + 0.5) * scale - 0.5
    weights = KERNELS[interpolation](jnp.abs((pixels[None, :] - centres[:, None]) / reach))
    weights = jnp.where((pixels >= start) & (pixels < start + length), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(t: Any, xp: Any = jnp) -> Any:
    return xp.maximum(0.0, 1.0 - t)


def _keys_cubic(t: Any, xp: Any = jnp) -> Any:
    # Keys (1981) with a = -0.5, the value of Pillow and of TensorFlow.
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    return xp.where(t < 1.0, near, xp.where(t < 2.0, far, 0.0))


# Kernels: functions of a distance of 0 or more pixels; ``xp`` is ``jax.numpy`` or ``numpy``.
KERNELS = {"bilinear": _triangle, "bicubic": _keys_cubic}


def affine_matrix(parameters: Mapping[str, Any], size: int, xp: Any = jnp) -> Any:
    """Affine matrix that maps output pixels to input pixels, about the centre of the image.

    It is the inverse of these steps: shear along x, zoom, rotate counter-clockwise as displayed,
    then shift.

    Args:
        parameters: rotation and shear in radians, scaling, all [...], and translation [..., 2]
            (y, x) as a fraction of the side.
        size: Side of the image in pixels.
        xp: Array module, ``jax.numpy`` or ``numpy``.

    Returns:
        float [..., 2, 3], matrices that act on (x, y, 1).
    """
    c, s = xp.cos(parameters["rotation"]), xp.sin(parameters["rotation"])
    k = xp.tan(parameters["shear"])
    z = parameters["scaling"]
    # Forward map (x right, y down): [[c, s], [-s, c]] @ [[1, k], [0, 1]] * z. Below is its inverse.
    a, b = (c - k * s) / z, (-s - k * c) / z
    d, e = s / z, c / z
    centre = (size - 1) / 2
    shift = parameters["translation"] * size
    px, py = centre + shift[..., 1], centre + shift[..., 0]
    row_x = xp.stack([a, b, centre - a * px - b * py], -1)
    row_y = xp.stack([d, e, centre - d * px - e * py], -1)
    return xp.stack([row_x, row_y], -2)


def transform(x: jax.Array, matrix: jax.Array, fill: float) -> jax.Array:
    """Applies an affine map to each image by bilinear resampling.

    A sample within one pixel outside the border blends with the fill value, as in
    ``scipy.ndimage.affine_transform(order=1, mode="grid-constant")``.

    Args:
        x: float [n, S, S, C].
        matrix: float [n, 2, 3], maps from output to input pixels; see ``affine_matrix``.
        fill: Value outside the image.

    Returns:
        float [n, S, S, C].
    """
    n, height, width, channels = x.shape
    grid_y, grid_x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    grid = jnp.stack([grid_x.ravel(), grid_y.ravel(), jnp.ones(height * width, int)])
    highest = jax.lax.Precision.HIGHEST
    points = jnp.einsum("nij,jp->nip", matrix, grid.astype(matrix.dtype), precision=highest)
    base = jnp.floor(points)
    fraction = points - base
    flat = (x - fill).reshape(n, height * width, channels)
    total = jnp.zeros_like(flat)
    for dy in (0, 1):
        for dx in (0, 1):
            column = base[:, 0].astype(jnp.int32) + dx
            row = base[:, 1].astype(jnp.int32) + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            weight = (fraction[:, 0] if dx else 1 - fraction[:, 0]) * (
                fraction[:, 1] if dy else 1 - fraction[:, 1]
            )
            values = jnp.take_along_axis(flat, index[..., None], axis=1)
            total += jnp.where(inside, weight, 0.0)[..., None] * values
    return total.reshape(x.shape) + fill


def box_fractions(
    box: jax.Array, height: jax.typing.ArrayLike, width: jax.typing.ArrayLike
) -> jax.Array:
    """Boxes [n, k, 4] in pixels as fractions of the images' heights and widths, scalar or [n]."""
    sides = jnp.stack([jnp.asarray(side) for side in (height, width, height, width)], -1)
    return box / jnp.asarray(sides, float)[..., None, :]
