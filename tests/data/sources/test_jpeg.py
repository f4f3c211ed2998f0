"""simplejpeg decodes JPEGs to the same pixels as Pillow, at full size and reduced."""

import io

import numpy as np
import PIL.Image
import pytest

from cssl_jax.data.sources import decode, jpeg


def encoded(height, width, mode="RGB", **options):
    random = np.random.default_rng(height * width)
    coarse = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    noise = random.integers(-20, 20, (height, width, 3))
    photo = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(photo).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_pixels_are_identical_to_those_of_pillow(subsampling, progressive, halvings):
    for height, width in ((101, 67), (64, 64), (33, 90)):
        content = encoded(height, width, subsampling=subsampling, progressive=progressive)
        expected = decode.decode(content, 3, halvings)
        np.testing.assert_array_equal(jpeg.decode(content, expected.shape), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_photos_have_the_requested_channels(channels):
    content = encoded(40, 50, "L")
    expected = decode.decode(content, channels, 1)
    np.testing.assert_array_equal(jpeg.decode(content, expected.shape), expected)


def test_a_damaged_jpeg_or_one_of_another_size_gives_none():
    content = encoded(40, 50)
    assert jpeg.decode(content[:200], (40, 50, 3)) is None
    assert jpeg.decode(b"no photo", (40, 50, 3)) is None
    assert jpeg.decode(content, (40, 60, 3)) is None


def test_without_the_package_the_result_is_none(monkeypatch):
    monkeypatch.setattr(jpeg, "_decoder", lambda: None)
    assert jpeg.decode(encoded(40, 50), (40, 50, 3)) is None
