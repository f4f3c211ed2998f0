"""Decoding of every format and mode, compared with the pixels that were encoded."""

import io
import struct
import subprocess
import sys
import zlib

import hypothesis
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies

from cssl_jax.data.sources import decode
from helpers import dirty_images, lossless_jpeg, tiff_encoder

GOOD = dirty_images.good()
LOSSLESS = {
    "png/colour.png": 5,
    "png/Grüße 世界.png": 14,
    "png/wrong-name.jpg": 13,
    "webp/lossless.webp": 15,
    "other/plain.bmp": 18,
    "other/colour.tif": 22,
    "other/lzw.tiff": 23,
    "other/pages.tif": 26,
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_encoded_pixels(name):
    np.testing.assert_array_equal(decode.decode(GOOD[name], 3), dirty_images.pixels(LOSSLESS[name]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(orientation):
    upright = decode.decode(GOOD[f"exif/{orientation}.png"], 3)
    np.testing.assert_array_equal(upright, dirty_images.pixels(30 + orientation))


@pytest.mark.parametrize("name", ["png/sixteen.png", "other/sixteen.tif"])
def test_sixteen_bits_become_eight_by_the_nearest_level(name):
    seed = {"png/sixteen.png": 12, "other/sixteen.tif": 25}[name]
    expected = dirty_images.pixels(seed, channels=1)
    np.testing.assert_array_equal(decode.decode(GOOD[name], 1), expected)
    np.testing.assert_array_equal(decode.decode(GOOD[name], 3), np.repeat(expected, 3, axis=2))
    values = np.arange(0, 65536, 37, dtype=np.uint16).reshape(-1, 4)
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "PNG")
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decode.decode(file.getvalue(), 1)[..., 0], expected)


NOISE = np.random.default_rng(0).integers(0, 200, (9, 9, 13))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            tiff_encoder.encode(NOISE.astype(np.uint8), extra=[0] * 12),
            "13 band(s) of 8-bit unsigned",
        ),
        (
            tiff_encoder.encode(NOISE.astype(np.uint16), extra=[0] * 12),
            "13 band(s) of 16-bit unsigned",
        ),
        (tiff_encoder.encode(NOISE[..., :4].astype(np.uint8), extra=[0] * 3), "4 band(s) of 8-bit"),
        (
            tiff_encoder.encode(NOISE[..., 0] / 7, kind=tiff_encoder.FLOAT),
            "64-bit floating-point values",
        ),
        (
            tiff_encoder.encode((NOISE[..., 0] / 199).astype(np.float32), kind=tiff_encoder.FLOAT),
            "to 1; scale them to 8 or 16 bits, or save",
        ),
        (
            tiff_encoder.encode(NOISE[..., 0].astype(np.int16) - 100, kind=tiff_encoder.SIGNED),
            "values from -93 to 99, which is below 0; scale them",
        ),
        (
            tiff_encoder.encode(NOISE[..., 0].astype(np.uint32) * 1000),
            "which is beyond 16 bits; scale them",
        ),
    ],
    ids=["13x8", "13x16", "4x8", "f64", "f32", "negative", "32"],
)
def test_a_tiff_that_is_not_read_is_described_with_the_way_out(content, message):
    with pytest.raises(decode.ImageError) as caught:
        decode.decode(content, 3)
    assert message in str(caught.value)
    assert caught.value.reason == "unreadable"
    assert "one .npz file, uint8 [N, H, W, C]" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted_at_every_depth(dtype):
    scale = 257 if dtype == np.uint16 else 1
    grey = NOISE[..., 0].astype(dtype)
    content = tiff_encoder.encode(grey * dtype(scale), photometric=0)
    np.testing.assert_array_equal(decode.decode(content, 1)[..., 0], 255 - grey)


def png_with(kind, content, end):
    """A small PNG with one more chunk, after its header or before its end."""
    whole = dirty_images.encode(dirty_images.pixels(0, 9, 9), "PNG")
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    at = len(whole) - 12 if end else 33
    return whole[:at] + chunk + whole[at:]


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt"])
def test_a_png_with_a_large_text_or_profile_is_read(kind, end):
    large = zlib.compress(bytes(2**21))
    content = {b"iTXt": b"k\0\1\0\0\0" + large, b"tEXt": b"k\0" + bytes(70 * 2**20)}.get(
        kind, b"k\0\0" + large
    )
    content = png_with(kind, content, end)
    np.testing.assert_array_equal(decode.decode(content, 3), dirty_images.pixels(0, 9, 9))
    mask = decode.read_index_png
    with pytest.raises(
        decode.ImageError, match="a PNG of mode RGB"
    ):  # the mode is known, so that the file was opened
        mask(content, 1000)


def test_pillow_prints_no_warnings(tmp_path):
    for i, content in enumerate(
        [
            tiff_encoder.encode(NOISE.astype(np.uint8), extra=[0] * 12),
            dirty_images.encode(
                dirty_images.pixels(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
            ),
        ]
    ):
        (tmp_path / str(i)).write_bytes(content)
    code = (
        "import pathlib, sys\n"
        "from cssl_jax.data.sources import decode\n"
        "for path in sys.argv[1:]:\n"
        "    try: decode.decode(pathlib.Path(path).read_bytes(), 3)\n"
        "    except decode.ImageError: pass\n"
    )
    command = [sys.executable, "-c", code, *map(str, tmp_path.iterdir())]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


@pytest.mark.parametrize(("name", "seed", "format_"), [
    ("png/rgba.png", 9, "PNG"), ("webp/alpha.webp", 17, "WEBP")
])  # fmt: skip
def test_transparent_images_are_put_on_white_or_keep_their_transparency(name, seed, format_):
    array = dirty_images.pixels(seed, channels=4)
    opaque = (array[..., 3:] > 128) | np.zeros((1, 1, 3), bool)
    on_white = np.where(opaque, array[..., :3], 255)
    # Lossy WebP changes colours slightly. Transparent pixels are white to a few levels.
    tolerance = 0 if format_ == "PNG" else 40
    decoded = decode.decode(GOOD[name], 3).astype(int)
    assert np.abs(decoded - on_white).mean() <= tolerance / 10
    assert (
        decode.decode(GOOD[name], 4)[..., 3].tolist() == np.where(opaque[..., 0], 255, 0).tolist()
    )


@pytest.mark.parametrize("name", ["jpeg/cmyk.jpg", "other/cmyk.tif"])
def test_cmyk_gives_the_encoded_colours(name):
    seed = {"jpeg/cmyk.jpg": 3, "other/cmyk.tif": 24}[name]
    assert np.abs(decode.decode(GOOD[name], 3).astype(int) - dirty_images.pixels(seed)).mean() < 4


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_good_file_has_the_requested_channels(name, channels):
    decoded = decode.decode(GOOD[name], channels)
    assert decoded.shape == (40, 56, channels)
    assert decoded.dtype == np.uint8
    if channels == 1:
        in_colour = decode.decode(GOOD[name], 3).astype(float) @ [0.299, 0.587, 0.114]
        assert np.abs(decoded[..., 0] - in_colour).max() <= 2  # JPEG keeps luma, rounded


def test_the_first_of_several_frames_is_decoded():
    decoded = decode.decode(GOOD["other/animated.gif"], 3).astype(int)
    errors = [np.abs(decoded - dirty_images.pixels(seed)).mean() for seed in (19, 20, 21)]
    assert np.argmin(errors) == 0


@pytest.mark.parametrize("name", [name for name, (_, why) in dirty_images.bad().items()
                                  if why not in ("duplicate", "too small")])  # fmt: skip
def test_bad_files_are_refused_with_their_reason(name):
    content, reason = dirty_images.bad()[name]
    with pytest.raises(decode.ImageError) as caught:
        decode.decode_image(content, 3, max_pixels=10**8)
    assert caught.value.reason == reason


def test_an_image_with_a_damaged_exif_block_is_decoded():
    content = dirty_images.encode(
        dirty_images.pixels(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    assert decode.decode(content, 3).shape == (40, 56, 3)


CHANGES = strategies.lists(strategies.tuples(strategies.floats(0, 1), strategies.integers(0, 255)))


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(strategies.sampled_from(sorted(GOOD)), strategies.floats(0, 1), CHANGES)
def test_any_bytes_decode_or_raise_an_image_error(name, cut, changes):
    content = bytearray(GOOD[name])
    for position, value in changes:
        content[int(position * (len(content) - 1))] = value
    try:
        decoded = decode.decode(bytes(content[: 1 + int(cut * len(content))]), 3)
    except decode.ImageError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3


def plain_files():
    for subsampling in (0, 1, 2):
        for height, width in ((40, 56), (33, 47), (17, 16)):
            pixels = dirty_images.pixels(height + subsampling, height, width)
            for progressive in (False, True):
                options = {"subsampling": subsampling, "progressive": progressive}
                yield dirty_images.encode(pixels, "JPEG", quality=90, **options)
    yield dirty_images.encode(dirty_images.pixels(2, 33, 47, channels=1), "JPEG")


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorflow_decodes_plain_jpegs_to_the_same_pixels(channels):
    tf = pytest.importorskip("tensorflow")
    plain = 0
    for content in plain_files():
        image = decode.decode_image(content, channels)
        if image.plain_jpeg:
            theirs = tf.io.decode_jpeg(content, channels, dct_method="INTEGER_ACCURATE")
            np.testing.assert_array_equal(image.pixels, theirs)
            plain += 1
    assert plain == (19 if channels == 3 else 1)  # only Pillow converts colour JPEGs to grey


def test_only_pillow_decodes_a_lossless_jpeg():
    pixels = dirty_images.pixels(0, 17, 23, channels=1)[..., 0]
    content = lossless_jpeg.encode(pixels)
    image = decode.decode_image(content, 3)
    np.testing.assert_array_equal(image.pixels[..., 0], pixels)
    assert not image.plain_jpeg
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(content, 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [
    (40, 56, 24), (200, 90, 64), (20, 30, 64), (100, 20, 48)
])  # fmt: skip
def test_resizing_matches_tensorflow_up_to_rounding(height, width, size, interpolation):
    tf = pytest.importorskip("tensorflow")
    pixels = dirty_images.pixels(0, height, width)
    theirs = tf.image.resize(pixels, (size, size), interpolation, antialias=True)
    ours = np.moveaxis(decode.resample(pixels, size, interpolation), 0, -1)
    # Float32 sums are added in another order.
    np.testing.assert_allclose(ours, np.clip(theirs, 0, 255), atol=2e-3)
    np.testing.assert_array_equal(
        decode.resize(pixels, size, interpolation), np.rint(ours).astype(np.uint8)
    )


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_tensorflow_halves_a_jpeg_to_the_same_pixels(halvings):
    tf = pytest.importorskip("tensorflow")
    for content in plain_files():
        if decode.decode_image(content, 3).plain_jpeg:
            ours = decode.decode(content, 3, halvings)
            theirs = tf.io.decode_jpeg(content, 3, 2**halvings, dct_method="INTEGER_ACCURATE")
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_halved_jpeg_is_nearly_the_mean_of_each_square(halvings):
    side = 2**halvings
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((160, 96), PIL.Image.Resampling.BICUBIC)
    content = dirty_images.encode(np.asarray(smooth), "JPEG", quality=95, subsampling=0)
    ours = decode.decode(content, 3, halvings)
    whole = decode.decode(content, 3).astype(float)
    means = whole.reshape(96 // side, side, 160 // side, side, 3).mean(axis=(1, 3))
    assert ours.shape == means.shape
    # The decoder keeps the low frequencies of a block, which is not exactly its mean.
    assert np.abs(ours - means).mean() < 2.0


def test_the_suffix_decides_whether_a_file_is_an_image():
    for name in ("a.jpg", "b/C.JPEG", "d.e.tiff", "deep/er/f.webp"):
        assert decode.is_image_name(name)
    for name in ("notes.txt", ".DS_Store", "b/._a.jpg", "jpg", "a.jpg.part"):
        assert not decode.is_image_name(name)
