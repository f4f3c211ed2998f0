"""Crop, resize and affine maps, batched: every image with its own box and matrix."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.augment.image.policy import ImagePolicy, Parameters


def crop_box(
    parameters: Parameters,
    height: jax.typing.ArrayLike,
    width: jax.typing.ArrayLike,
    *,
    policy: ImagePolicy,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Turns size-free crop parameters into whole pixels of an image, as torchvision does.

    The first of the candidates that fits the image counts. Where none fits, the largest centred box
    with the nearest allowed aspect ratio is taken; where the view is not cropped, the centre
    square, as at test time.

    Args:
        parameters: Leaves [..., 10] and [...].
        height: Of the image, in pixels; one for all, or of a shape that broadcasts to [...].
        width: Likewise.
        policy: For the allowed aspect ratios.

    Returns:
        (top, left, height, width), int32 [...] each.
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
    use = jnp.any(fits, axis=-1) & parameters["crop"]
    w = jnp.where(use, jnp.take_along_axis(widths, first, -1)[..., 0], fallback_width)
    h = jnp.where(use, jnp.take_along_axis(heights, first, -1)[..., 0], fallback_height)
    # A float below 1 times a whole number never rounds up to that number, so the box stays inside.
    top = jnp.where(use, jnp.floor(parameters["crop_y"] * (height - h + 1)), (height - h) // 2)
    left = jnp.where(use, jnp.floor(parameters["crop_x"] * (width - w + 1)), (width - w) // 2)
    return tuple(v.astype(jnp.int32) for v in (top, left, h, w))  # type: ignore[return-value]


def crop_and_resize(
    x: jax.Array,
    box: tuple[jax.Array, ...],
    size: int,
    interpolation: str,
    antialias: bool = True,
) -> jax.Array:
    """Cuts each image's box and resizes it to a square by two small matrix products.

    Equal to cropping first and resizing the crop with a separable kernel: Pillow's ``resize`` with
    antialiasing, ``tf.image.resize`` with and without. Nothing outside the box is read.

    Args:
        x: float [n, H, W, C].
        box: (top, left, height, width), int [n] each.
        size: Side of the output.
        interpolation: "bilinear" or "bicubic".
        antialias: Widen the kernel with the reduction.

    Returns:
        float [n, size, size, C], clipped to [0, 1] (bicubic overshoots).
    """
    top, left, height, width = box

    def weights(start: jax.Array, length: jax.Array, in_size: int) -> jax.Array:
        one = functools.partial(resize_matrix, interpolation=interpolation, antialias=antialias)
        return jax.vmap(lambda s, n: one(s, n, in_size, size))(start, length).astype(x.dtype)

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
    """Weights [out_size, in_size] that resample pixels start .. start + length to out_size ones.

    Half-pixel centres; the kernel widens with the reduction (antialias) and is cut at the box and
    renormalised there, which for linear interpolation is clamping to the border.
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


# Of a distance in pixels, 0 or more; ``xp`` is ``jax.numpy`` or ``numpy``.
KERNELS = {"bilinear": _triangle, "bicubic": _keys_cubic}


def affine_matrix(parameters: Mapping[str, Any], size: int, xp: Any = jnp) -> Any:
    """Output pixel to input pixel, about the centre: [..., 2, 3] acting on (x, y, 1).

    The inverse of: shear along x, zoom, rotate counter-clockwise as seen, then shift. ``xp`` is
    ``jax.numpy`` or ``numpy``.
    """
    c, s = xp.cos(parameters["rotation"]), xp.sin(parameters["rotation"])
    k = xp.tan(parameters["shear"])
    z = parameters["scaling"]
    # Forward (x right, y down): [[c, s], [-s, c]] @ [[1, k], [0, 1]] * z; below is its inverse.
    a, b = (c - k * s) / z, (-s - k * c) / z
    d, e = s / z, c / z
    centre = (size - 1) / 2
    shift = parameters["translation"] * size
    px, py = centre + shift[..., 1], centre + shift[..., 0]
    row_x = xp.stack([a, b, centre - a * px - b * py], -1)
    row_y = xp.stack([d, e, centre - d * px - e * py], -1)
    return xp.stack([row_x, row_y], -2)


def transform(x: jax.Array, matrix: jax.Array, fill: float) -> jax.Array:
    """Bilinear resampling of x [n, S, S, C] at matrix [n, 2, 3]; outside the image lies ``fill``.

    A sample within one pixel of the border blends with the fill, as
    ``scipy.ndimage.affine_transform(order=1, mode="grid-constant")`` does.
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
