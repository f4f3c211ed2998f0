"""Resized crops against Pillow (antialiased) and SciPy (plain), from several threads at once."""

import concurrent.futures

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.pipeline.rendering.resizer import Resizer
from helpers import dirty_images

SHAPES = ((40, 56), (200, 90), (20, 30), (24, 70), (60, 24), (1, 3), (24, 24))


def resized(image, size, interpolation, antialias=True, resizer=None):
    resizer = resizer or Resizer(ImagePolicy(interpolation=interpolation, antialias=antialias))
    out = np.full((size, size, image.shape[-1]), np.nan, np.float32)
    resizer(image, out)
    return out


def pillow(image, size, interpolation):
    """Pillow's result in floating point, one channel at a time."""
    kernel = PIL.Image.Resampling[interpolation.upper()]
    planes = [PIL.Image.fromarray(plane) for plane in np.moveaxis(np.float32(image), -1, 0)]
    return np.stack([np.asarray(p.resize((size, size), kernel)) for p in planes], -1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_antialiased_results_are_those_of_pillow(shape, interpolation):
    image = dirty_images.pixels(3, *shape)
    expected = np.clip(pillow(image, 24, interpolation), 0, 255)
    # Sums of up to 20 float32 products of at most 255, in another order.
    np.testing.assert_allclose(resized(image, 24, interpolation), expected, atol=2e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_plain_bilinear_results_are_those_of_scipy(shape, channels):
    image = dirty_images.pixels(4, *shape, channels=channels)
    points = np.meshgrid(*[(np.arange(24) + 0.5) * n / 24 - 0.5 for n in shape], indexing="ij")
    ours = resized(image, 24, "bilinear", antialias=False)
    for c in range(channels):
        theirs = scipy.ndimage.map_coordinates(image[..., c] * 1.0, points, order=1, mode="nearest")
        np.testing.assert_allclose(ours[..., c], theirs, atol=2e-3)


def test_a_resizer_gives_the_same_bits_whatever_it_resized_before():
    resizer = Resizer(ImagePolicy())
    images = [dirty_images.pixels(5, *shape) for shape in SHAPES]
    first = [resized(image, 24, "bilinear", resizer=resizer) for image in images]
    for image, expected in reversed([*zip(images, first, strict=True)]):
        np.testing.assert_array_equal(resized(image, 24, "bilinear", resizer=resizer), expected)


def test_resizers_in_several_threads_do_not_disturb_each_other():
    images = [dirty_images.pixels(n, 300, 400 - n) for n in range(16)]
    alone = [resized(image, 64, "bicubic") for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: resized(image, 64, "bicubic"), images))
    np.testing.assert_array_equal(together, alone)
