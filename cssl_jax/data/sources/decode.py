"""Decodes images of every format, mode and orientation to uint8 arrays, with Pillow."""

import dataclasses
import functools
import importlib
import importlib.util
import io
import logging
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.JpegImagePlugin
import PIL.TiffImagePlugin

# HEIC files need the optional package pillow-heif.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF = importlib.util.find_spec("pillow_heif") is not None
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *(HEIF_SUFFIXES if _HEIF else ()),
    )
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(("HEIF",) if _HEIF else ()))
ORIENTATION = 0x0112  # EXIF tag
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PHOTOMETRIC = 262  # TIFF tag; 0 means that the value 0 is white
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_NPZ = "save the images as one .npz file, uint8 [N, H, W, C]"
_SCALE = f"scale them to 8 or 16 bits, or {_NPZ}"
_END_OF_JPEG = b"\xff\xd9"
# Frame types that TensorFlow decodes: baseline, extended and progressive. Only Pillow decodes
# lossless (SOF3) and arithmetic frames.
_HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)
# Exceptions that readers of Pillow raise for a file of another format.
_FORMAT_ERRORS = (SyntaxError, IndexError, TypeError, KeyError, struct.error)
# Chroma subsampling 4:4:4, 4:2:2 and 4:2:0. For others, decoders differ in the last bit.
_SUBSAMPLINGS = (0, 1, 2)

T = TypeVar("T")
# The scan records the defects of every file, so that warnings and log lines of Pillow are dropped.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: "empty", "unreadable", "truncated" or "oversize".
        detail: Description for the user; "" if there is none.
        size: (height, width) in pixels, from the header; (0, 0) if the header cannot be read.
    """

    def __init__(self, reason: str, detail: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.size = reason, detail, size


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 [h, w, C], upright.
        kind: Format and mode of the file, such as "JPEG RGB".
        plain_jpeg: True if ``tf.io.decode_jpeg`` with integer-accurate DCT gives the same pixels.
    """

    pixels: np.ndarray
    kind: str
    plain_jpeg: bool


def is_image_name(path: str) -> bool:
    """True if a file is an image by its suffix. Hidden files (.DS_Store, ._x.jpg) are not."""
    name = path.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return not name.startswith(".") and dot + suffix.lower() in SUFFIXES


def decode(content: bytes, channels: int, halvings: int = 0) -> np.ndarray:
    """Decodes an image to uint8 [h, w, C]; see ``decode_image``."""
    return decode_image(content, channels, halvings=halvings).pixels


def decode_image(
    content: bytes, channels: int, max_pixels: float = np.inf, *, halvings: int = 0
) -> DecodedImage:
    """Decodes an image in one of ``FORMATS``; from several frames it takes the first.

    The EXIF orientation is applied. Transparent images are put on white, or keep their transparency
    with 4 channels. 16-bit values are scaled to 8 bits, 65535 to 255. Colour becomes grey by
    ITU-R 601 luma.

    Args:
        content: Bytes of the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        max_pixels: Maximum height x width. The header of a larger image is refused before anything
            is decoded.
        halvings: Number of times that the sides of a JPEG are halved, 0 for full size. The decoder
            omits DCT coefficients of every block. Odd sides are rounded up.

    Raises:
        ImageError: The file is empty, unreadable, cut short, or oversize.
    """
    return _retry_without_metadata(
        content, lambda stripped: _decode(stripped, channels, max_pixels, halvings)
    )


def _decode(content: bytes, channels: int, max_pixels: float, halvings: int) -> DecodedImage:
    size = (0, 0)
    try:
        image = open_image(content, max_pixels)
        size = (image.height, image.width)
        kind = f"{image.format} {image.mode}"
        # TensorFlow reads to the end marker, Pillow only to the last row.
        plain = _is_plain(image, channels, content) and content.endswith(_END_OF_JPEG)
        if halvings:
            # Pillow chooses the largest reduction whose sides are not smaller than these.
            image.draft(None, (image.width >> halvings, image.height >> halvings))
        image.load()
        orientation = _orientation(image)
        pixels = _pixels(image, channels, orientation)
    except ImageError as error:
        error.size = error.size if any(error.size) else size
        raise
    except Exception as error:  # decoders raise many types of exceptions for a damaged file
        raise ImageError(_reason(content, error), _description(error), size) from error
    return DecodedImage(pixels, kind, plain and orientation == 1)


def open_image(
    content: bytes, max_pixels: float = np.inf, formats: Sequence[str] = FORMATS
) -> PIL.Image.Image:
    """Reads the header of an encoded image. This is the only place where the package opens one.

    ``PIL.Image.open`` would try every format of Pillow. Among them is PostScript, which Pillow
    passes to the program Ghostscript. Its limit of pixels is a global variable.

    Args:
        content: Bytes of the file.
        max_pixels: Maximum height x width.
        formats: Formats to try, by the names that Pillow gives them.

    Returns:
        Image whose pixels are not decoded yet.

    Raises:
        ImageError: The file is empty, has none of the formats, or has more pixels.
    """
    if not content:
        raise ImageError("empty", "0 bytes")
    _register_readers()
    failure: Exception | None = None
    for name in formats:
        factory, accepts = PIL.Image.OPEN[name]
        if accepts is None or accepts(content[:16]) is True:
            try:
                image = factory(io.BytesIO(content), "")
            except Exception as error:  # readers raise many types for a damaged header
                failure = error
                continue
            if image.height * image.width > max_pixels:
                detail = f"{image.width} x {image.height} px, at most {max_pixels:,.0f} pixels"
                raise ImageError("oversize", detail, (image.height, image.width))
            return image
    if failure is not None and not isinstance(failure, _FORMAT_ERRORS):
        raise ImageError(_reason(content, failure), _description(failure)) from failure
    if content[:4] in _TIFF and "TIFF" in formats and (layout := _tiff_layout(content)):
        raise ImageError("unreadable", f"{layout}; {_NPZ}") from failure
    *others, last = [name.replace("WEBP", "WebP") for name in formats]
    names = f"{', '.join(others)} or {last}" if others else last
    raise ImageError(_reason(content, failure or ValueError()), f"not a {names} file") from failure


@functools.cache
def _register_readers() -> None:
    PIL.Image.init()
    if _HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()


def _retry_without_metadata(content: bytes, read: Callable[[bytes], T]) -> T:
    """Calls ``read``; for a PNG with large metadata, again without its texts and colour profile.

    Pillow refuses texts and profiles that decompress to more than 1 MB. Neither is used here.
    """
    try:
        return read(content)
    except ImageError as error:
        if "MAX_TEXT" not in error.detail or not content.startswith(_PNG):
            raise
        return read(_strip_metadata(content))


def _strip_metadata(content: bytes) -> bytes:
    """Removes the texts and the colour profile of a PNG."""
    chunks, start = [content[: len(_PNG)]], len(_PNG)
    # A chunk is its length (4 bytes), its type (4), the data and a checksum (4).
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            chunks.append(content[start:end])
        start = end
    return b"".join(chunks)


def _tiff_layout(content: bytes) -> str:
    """Describes the bands and values of a TIFF that Pillow does not decode.

    Returns:
        The description; "" if the tags are damaged.
    """
    file = io.BytesIO(content)
    try:
        tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        # 277 SamplesPerPixel, 258 BitsPerSample, 339 SampleFormat (TIFF 6.0)
        bands, bits = int(tags.get(277, 1)), int(tags.get(258, (1,))[0])
        kind = {2: "signed", 3: "floating-point"}.get(int(tags.get(339, (1,))[0]), "unsigned")
    except Exception:  # damaged tags raise many types of exceptions
        return ""
    return f"a TIFF of {bands} band(s) of {bits}-bit {kind} values, which Pillow does not decode"


def read_index_png(content: bytes, max_pixels: float) -> np.ndarray:
    """Decodes a PNG with one byte per pixel to its stored values, such as class numbers.

    Args:
        content: Bytes of the file.
        max_pixels: Maximum height x width.

    Returns:
        uint8 [h, w].

    Raises:
        ImageError: The file is not such a PNG, is damaged, or has more pixels.
    """
    return _retry_without_metadata(content, lambda stripped: _indices(stripped, max_pixels))


def _indices(content: bytes, max_pixels: float) -> np.ndarray:
    image = open_image(content, max_pixels, ("PNG",))
    size = (image.height, image.width)
    if image.mode not in ("P", "L"):
        detail = f"a PNG of mode {image.mode}; one byte per pixel is needed (mode P or L)"
        raise ImageError("unreadable", detail, size)
    try:
        return np.array(image)
    except Exception as error:  # decoders raise many types of exceptions for a damaged file
        raise ImageError(_reason(content, error), _description(error), size) from error


def _is_plain(image: Any, channels: int, content: bytes) -> bool:
    """True if TensorFlow decodes the frame of this JPEG to the same pixels as Pillow."""
    if image.format not in ("JPEG", "MPO") or _frame_marker(content) not in _HUFFMAN_DCT:
        return False
    if image.mode == "L":
        return channels in (1, 3)
    sampling = PIL.JpegImagePlugin.get_sampling(image)
    ycc = image.info.get("adobe_transform", 1) == 1
    return image.mode == "RGB" and channels == 3 and sampling in _SUBSAMPLINGS and ycc


def _frame_marker(content: bytes) -> int:
    """Frame marker of a JPEG, SOF0 (0xC0) to SOF15 (0xCF), which gives its coding process.

    Returns:
        The marker; 0 if there is none.
    """
    offset = 2
    while offset + 4 <= len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            offset += 1
            continue
        # Three of the 16 markers do not start a frame: DHT (Huffman tables), JPG (reserved) and
        # DAC (arithmetic coding).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")
    return 0


def _orientation(image: PIL.Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # an image with a damaged EXIF block can still be used
        return 1
    return value if value in range(1, 9) else 1


def _pixels(image: PIL.Image.Image, channels: int, orientation: int) -> np.ndarray:
    """Upright pixels, uint8 [h, w, C], by the EXIF orientation 1 (upright) to 8."""
    pixels = np.asarray(_in_mode(image, channels))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _in_mode(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    transparent = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if transparent:
        image = image.convert("RGBA")
        if channels != 4:
            white = PIL.Image.new("RGBA", image.size, "white")
            image = PIL.Image.alpha_composite(white, image).convert("RGB")
    elif image.mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image.convert(MODES[channels])


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        raise ImageError("unreadable", f"floating-point values, {low:g} to {high:g}; {_SCALE}")
    if low < 0 or high > 65535:
        problem = "which is below 0" if low < 0 else "which is beyond 16 bits"
        raise ImageError("unreadable", f"values from {low} to {high}, {problem}; {_SCALE}")
    tags = getattr(image, "tag_v2", {})
    # Pillow inverts WhiteIsZero images of 8 bits itself, but not those of 16 bits.
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        values = 2 ** int(tags.get(258, (16,))[0]) - 1 - values.astype(np.int64)
    # Integer form of round(values * 255 / 65535).
    return PIL.Image.fromarray(((values.astype(np.int64) * 510 + 65535) // 131070).astype(np.uint8))


def _reason(content: bytes, error: Exception) -> str:
    """Reason of an ``ImageError``: "truncated" if bytes are missing at the end, else "unreadable".

    Bytes are missing if the decoder says so, or if the header gives more bytes than the file has.
    """
    missing = "truncated" in str(error) or isinstance(error, EOFError)
    # A RIFF file (WebP) starts with its size, a TIFF with the offset of its first directory.
    if content[:4] == b"RIFF" and len(content) >= 8:
        missing |= struct.unpack("<I", content[4:8])[0] + 8 > len(content)
    if content[:2] in (b"II", b"MM") and len(content) >= 8:
        order = "<" if content[:2] == b"II" else ">"
        missing |= struct.unpack(order + "I", content[4:8])[0] >= len(content)
    return "truncated" if missing else "unreadable"


def _description(error: Exception) -> str:
    """Message of an exception on one line, at most 120 characters; its type without a message."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def resize(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to a square and rounds; see ``resample``.

    Returns:
        uint8 [size, size, C].
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    planes = np.rint(resample(pixels, size, interpolation)).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def resample(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to a square with antialiasing, as ``tf.image.resize(antialias=True)`` does.

    Args:
        pixels: uint8 [h, w, C].
        size: Side of the output in pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 [C, size, size] in [0, 255], not rounded.
    """
    # Float planes, because the 8-bit resize of Pillow rounds between its two passes.
    planes = np.moveaxis(pixels, -1, 0).astype(np.float32)
    if pixels.shape[:2] == (size, size):
        return planes
    filter_ = PIL.Image.Resampling[interpolation.upper()]
    resized = [PIL.Image.fromarray(plane).resize((size, size), filter_) for plane in planes]
    return np.stack([np.asarray(plane) for plane in resized]).clip(0.0, 255.0)
