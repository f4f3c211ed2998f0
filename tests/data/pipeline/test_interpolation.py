"""Plain interpolation from gathered pixels, against other libraries."""

import functools

import jax
import numpy as np
import pytest
import scipy.ndimage

from cssl_jax.data.pipeline import interpolation as taps
from helpers import dirty_images

weigh = functools.partial(jax.jit, static_argnames="channels")(taps.weigh)


def resized(picture, size, interpolation, box=None):
    """float32 [size, size, C]."""
    channels = picture.shape[-1]
    box = np.array((0, 0, *picture.shape[:2]) if box is None else box)
    other = (box + 1) // 2  # of another view: it changes nothing
    both = taps.gather(taps.pack(picture), np.stack([other, box]), size, interpolation)
    one = taps.Taps(*(values[1] for values in both))
    return np.moveaxis(weigh(one, channels=channels), 0, -1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [
    (40, 56, 24), (200, 90, 64), (20, 30, 64), (100, 20, 48), (1, 3, 8)
])  # fmt: skip
def test_it_is_tensorflows_without_antialiasing(height, width, size, interpolation):
    tf = pytest.importorskip("tensorflow")
    picture = dirty_images.pixels(0, height, width)
    theirs = tf.image.resize(picture, (size, size), interpolation, antialias=False)
    # Bilinear: sums in another order. Bicubic weights come from a table of 1,024 there.
    atol = {"bilinear": 2e-3, "bicubic": 0.3}[interpolation]
    ours = resized(picture, size, interpolation)
    np.testing.assert_allclose(ours, np.clip(theirs, 0, 255), atol=atol)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(40, 56), (20, 30), (90, 17)])
def test_bilinear_is_scipys_for_any_channels(shape, channels):
    picture = dirty_images.pixels(1, *shape, channels=channels)
    grid = [(np.arange(24) + 0.5) * length / 24 - 0.5 for length in shape]
    points = np.meshgrid(*grid, indexing="ij")
    ours = resized(picture, 24, "bilinear")
    for c in range(channels):
        theirs = scipy.ndimage.map_coordinates(
            picture[..., c] * 1.0, points, order=1, mode="nearest"
        )
        np.testing.assert_allclose(ours[..., c], theirs, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_box_is_the_cut_picture_and_nothing_outside_it_is_read(interpolation):
    picture = dirty_images.pixels(2, 50, 60)
    cut = resized(picture[7:41, 11:22], 16, interpolation)
    np.testing.assert_array_equal(resized(picture, 16, interpolation, (7, 11, 34, 11)), cut)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_picture_of_the_size_keeps_its_bits(interpolation):
    picture = dirty_images.pixels(3, 16, 16)
    np.testing.assert_array_equal(resized(picture, 16, interpolation), picture)
