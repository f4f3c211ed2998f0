"""Interpolation without antialiasing, from gathered pixels, against other libraries."""

import functools

import jax
import numpy as np
import pytest
import scipy.ndimage

from cssl_jax.data.pipeline.rendering import interpolation as taps
from helpers import dirty_images

weigh = functools.partial(jax.jit, static_argnames="channels")(taps.weigh)


def resized(image, size, interpolation, box=None):
    """float32 [size, size, C]."""
    channels = image.shape[-1]
    box = np.array((0, 0, *image.shape[:2]) if box is None else box)
    other = (box + 1) // 2  # a second view, which must not affect the first
    both = taps.gather(taps.pack(image), np.stack([other, box]), size, interpolation)
    one = taps.Taps(*(values[1] for values in both))
    return np.moveaxis(weigh(one, channels=channels), 0, -1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [
    (40, 56, 24), (200, 90, 64), (20, 30, 64), (100, 20, 48), (1, 3, 8)
])  # fmt: skip
def test_results_match_tensorflow_without_antialiasing(height, width, size, interpolation):
    tf = pytest.importorskip("tensorflow")
    image = dirty_images.pixels(0, height, width)
    theirs = tf.image.resize(image, (size, size), interpolation, antialias=False)
    # Bilinear: sums in another order. TensorFlow reads bicubic weights from a table of 1,024.
    atol = {"bilinear": 2e-3, "bicubic": 0.3}[interpolation]
    ours = resized(image, size, interpolation)
    np.testing.assert_allclose(ours, np.clip(theirs, 0, 255), atol=atol)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(40, 56), (20, 30), (90, 17)])
def test_bilinear_results_match_scipy_for_any_number_of_channels(shape, channels):
    image = dirty_images.pixels(1, *shape, channels=channels)
    grid = [(np.arange(24) + 0.5) * length / 24 - 0.5 for length in shape]
    points = np.meshgrid(*grid, indexing="ij")
    ours = resized(image, 24, "bilinear")
    for c in range(channels):
        theirs = scipy.ndimage.map_coordinates(image[..., c] * 1.0, points, order=1, mode="nearest")
        np.testing.assert_allclose(ours[..., c], theirs, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_box_gives_the_result_of_the_cropped_image(interpolation):
    image = dirty_images.pixels(2, 50, 60)
    crop = resized(image[7:41, 11:22], 16, interpolation)
    np.testing.assert_array_equal(resized(image, 16, interpolation, (7, 11, 34, 11)), crop)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_of_the_output_size_keeps_its_bits(interpolation):
    image = dirty_images.pixels(3, 16, 16)
    np.testing.assert_array_equal(resized(image, 16, interpolation), image)
