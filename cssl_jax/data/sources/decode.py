"""Encoded pictures to arrays by Pillow: every format, mode and orientation to one kind of array."""

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

# HEIC needs the package pillow-heif, which is optional.
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
ORIENTATION = 0x0112  # of EXIF
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PHOTOMETRIC = 262  # tag of a TIFF
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_NPZ = "save the images as one .npz file, uint8 [N, H, W, C]"
_SCALE = f"scale them to 8 or 16 bits, or {_NPZ}"
_END_OF_JPEG = b"\xff\xd9"
# Frames of TensorFlow's decoder: baseline, extended and progressive. Lossless (SOF3) and arithmetic
# ones are Pillow's alone.
_HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)
# What Pillow's readers raise for a file of another format.
_FORMAT_ERRORS = (SyntaxError, IndexError, TypeError, KeyError, struct.error)
_SUBSAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2, 4:2:0: of others, decoders differ in the last bit

T = TypeVar("T")
# What Pillow says of single files, by warnings and by its logger, is told by the scan's index.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(ValueError):
    """A picture that cannot be used.

    Attributes:
        reason: "empty", "unreadable", "truncated" or "oversize".
        size: (height, width) where the header told it, else (0, 0).
    """

    def __init__(self, reason: str, detail: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.size = reason, detail, size


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [h, w, channels], upright.
        kind: Format and mode of the file, such as "JPEG RGB".
        plain_jpeg: ``tf.io.decode_jpeg`` with integer-accurate DCT gives the same pixels.
    """

    pixels: np.ndarray
    kind: str
    plain_jpeg: bool


def is_image_name(path: str) -> bool:
    """Whether a file is a picture by its name; hidden files (.DS_Store, ._x.jpg) are not."""
    name = path.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return not name.startswith(".") and dot + suffix.lower() in SUFFIXES


def decode(content: bytes, channels: int, halvings: int = 0) -> np.ndarray:
    """The pixels alone; see ``decode_image``."""
    return decode_image(content, channels, halvings=halvings).pixels


def decode_image(
    content: bytes, channels: int, max_pixels: float = np.inf, *, halvings: int = 0
) -> Picture:
    """Decodes JPEG, PNG, WebP, BMP, GIF or TIFF; of several frames the first.

    EXIF orientation is undone. Transparent pictures are laid on white, or keep their transparency
    with 4 channels. 16-bit grey goes to 8 bits as 65535 to 255; grey of colour is ITU-R 601 luma.

    Args:
        content: The file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        max_pixels: More, by the header, are refused before anything is decoded.
        halvings: How often the sides of a JPEG are halved in decoding, by leaving out coefficients
            of its blocks; odd sides are rounded up.

    Raises:
        ImageError: It is empty, unreadable, cut short, or oversize.
    """
    return _with_notes_or_without(
        content, lambda kept: _decode(kept, channels, max_pixels, halvings)
    )


def _decode(content: bytes, channels: int, max_pixels: float, halvings: int) -> Picture:
    size = (0, 0)
    try:
        image = open_image(content, max_pixels)
        size = (image.height, image.width)
        kind = f"{image.format} {image.mode}"
        # TensorFlow reads on to the end marker, Pillow to the last row.
        plain = _is_plain(image, channels, content) and content.endswith(_END_OF_JPEG)
        if halvings:  # the largest reduction that leaves no side below these
            image.draft(None, (image.width >> halvings, image.height >> halvings))
        image.load()
        orientation = _orientation(image)
        pixels = _pixels(image, channels, orientation)
    except ImageError as error:
        error.size = error.size if any(error.size) else size
        raise
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise ImageError(_reason(content, error), _words(error), size) from error
    return Picture(pixels, kind, plain and orientation == 1)


def open_image(
    content: bytes, max_pixels: float = np.inf, formats: Sequence[str] = FORMATS
) -> PIL.Image.Image:
    """Reads the header of an encoded image. The package opens images nowhere else.

    ``PIL.Image.open`` would try every format that Pillow knows, among them PostScript, which it
    hands to the program Ghostscript; and its limit of pixels is a global variable.

    Args:
        content: The file.
        max_pixels: Maximum height x width.
        formats: Pillow's names of the formats that are tried.

    Raises:
        ImageError: The file is empty, in none of the formats, or has more pixels.
    """
    if not content:
        raise ImageError("empty", "0 bytes")
    _register_readers()
    trouble: Exception | None = None
    for name in formats:
        factory, accepts = PIL.Image.OPEN[name]
        if accepts is None or accepts(content[:16]) is True:
            try:
                image = factory(io.BytesIO(content), "")
            except Exception as error:  # a broken header can raise nearly anything
                trouble = error
                continue
            if image.height * image.width > max_pixels:
                detail = f"{image.width} x {image.height} px, at most {max_pixels:,.0f} pixels"
                raise ImageError("oversize", detail, (image.height, image.width))
            return image
    if trouble is not None and not isinstance(trouble, _FORMAT_ERRORS):
        raise ImageError(_reason(content, trouble), _words(trouble)) from trouble
    if content[:4] in _TIFF and "TIFF" in formats and (layout := _tiff_layout(content)):
        raise ImageError("unreadable", f"{layout}; {_NPZ}") from trouble
    *others, last = [name.replace("WEBP", "WebP") for name in formats]
    names = f"{', '.join(others)} or {last}" if others else last
    raise ImageError(_reason(content, trouble or ValueError()), f"no {names} file") from trouble


@functools.cache
def _register_readers() -> None:
    PIL.Image.init()
    if _HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()


def _with_notes_or_without(content: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` gives of a file, and of a PNG without its texts and profile if these fail.

    Pillow refuses those that unpack to more than 1 MB, and they are not used here.
    """
    try:
        return read(content)
    except ImageError as error:
        if "MAX_TEXT" not in error.detail or not content.startswith(_PNG):
            raise
        return read(_without_notes(content))


def _without_notes(content: bytes) -> bytes:
    """A PNG without its texts and its colour profile."""
    kept, at = [content[: len(_PNG)]], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _tiff_layout(content: bytes) -> str:
    """Bands and values of a TIFF that Pillow does not decode; "" where its tags are broken."""
    file = io.BytesIO(content)
    try:
        tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags.get(277, 1)), int(tags.get(258, (1,))[0])
        kind = {2: "signed", 3: "floating-point"}.get(int(tags.get(339, (1,))[0]), "unsigned")
    except Exception:  # broken tags can raise nearly anything
        return ""
    return f"a TIFF of {bands} band(s) of {bits}-bit {kind} values, which Pillow does not decode"


def read_index_png(content: bytes, max_pixels: float) -> np.ndarray:
    """Decodes a PNG with one byte per pixel as the numbers that it holds, uint8 [h, w].

    Raises:
        ImageError: It is no such PNG, or has more than ``max_pixels``.
    """
    return _with_notes_or_without(content, lambda kept: _indices(kept, max_pixels))


def _indices(content: bytes, max_pixels: float) -> np.ndarray:
    image = open_image(content, max_pixels, ("PNG",))
    size = (image.height, image.width)
    if image.mode not in ("P", "L"):
        detail = f"a PNG of mode {image.mode}; one byte per pixel is needed (mode P or L)"
        raise ImageError("unreadable", detail, size)
    try:
        return np.array(image)
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise ImageError(_reason(content, error), _words(error), size) from error


def _is_plain(image: Any, channels: int, content: bytes) -> bool:
    if image.format not in ("JPEG", "MPO") or _frame_marker(content) not in _HUFFMAN_DCT:
        return False
    if image.mode == "L":
        return channels in (1, 3)
    sampling = PIL.JpegImagePlugin.get_sampling(image)
    ycc = image.info.get("adobe_transform", 1) == 1
    return image.mode == "RGB" and channels == 3 and sampling in _SUBSAMPLINGS and ycc


def _frame_marker(content: bytes) -> int:
    """The marker of a JPEG's frame, SOF0 (0xC0) to SOF15: its process; 0 where there is none."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        # Of these 16 markers three are no frames: Huffman tables, a reserved one, arithmetic ones.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0


def _orientation(image: PIL.Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1
    return value if value in range(1, 9) else 1


def _pixels(image: PIL.Image.Image, channels: int, orientation: int) -> np.ndarray:
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
        why = "which is below 0" if low < 0 else "which is beyond 16 bits"
        raise ImageError("unreadable", f"values from {low} to {high}, {why}; {_SCALE}")
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:  # white is zero
        values = 2 ** int(tags.get(258, (16,))[0]) - 1 - values.astype(np.int64)
    return PIL.Image.fromarray(((values.astype(np.int64) * 510 + 65535) // 131070).astype(np.uint8))


def _reason(content: bytes, error: Exception) -> str:
    """Truncated where bytes are missing at the end, as the decoder or the file itself says."""
    missing = "truncated" in str(error) or isinstance(error, EOFError)
    if content[:4] == b"RIFF" and len(content) >= 8:
        missing |= struct.unpack("<I", content[4:8])[0] + 8 > len(content)
    if content[:2] in (b"II", b"MM") and len(content) >= 8:
        order = "<" if content[:2] == b"II" else ">"
        missing |= struct.unpack(order + "I", content[4:8])[0] >= len(content)
    return "truncated" if missing else "unreadable"


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def resize(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """``resample`` rounded to uint8 [size, size, C]."""
    if pixels.shape[:2] == (size, size):
        return pixels
    planes = np.rint(resample(pixels, size, interpolation)).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def resample(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to a square with antialiasing, as ``tf.image.resize(antialias=True)`` does.

    Args:
        pixels: uint8 [h, w, C].
        size: Side of the output.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 [C, size, size] in [0, 255], not rounded: Pillow's 8-bit resize would round between
        its two passes.
    """
    planes = np.moveaxis(pixels, -1, 0).astype(np.float32)
    if pixels.shape[:2] == (size, size):
        return planes
    filter_ = PIL.Image.Resampling[interpolation.upper()]
    resized = [PIL.Image.fromarray(plane).resize((size, size), filter_) for plane in planes]
    return np.stack([np.asarray(plane) for plane in resized]).clip(0.0, 255.0)
