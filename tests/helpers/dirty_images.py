"""A folder of images with every kind of good, odd and broken file in it."""

import io
import struct
import zlib

import numpy as np
import PIL.Image

BLOBS = PIL.Image.Resampling.BICUBIC
ORIENTATION = 0x0112
# What turns an upright image into the stored one of each EXIF orientation.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def pixels(seed, height=40, width=56, channels=3):
    """Blobs: unlike noise, what lossy formats are made for; uint8 [h, w, channels]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, channels)).astype(np.uint8)
    layers = [
        PIL.Image.fromarray(coarse[..., c]).resize((width, height), BLOBS) for c in range(channels)
    ]
    return np.stack([np.asarray(layer) for layer in layers], axis=-1)


def encode(array, format_, mode=None, **options):
    file = io.BytesIO()
    image = PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    (image.convert(mode) if mode else image).save(file, format_, **options)
    return file.getvalue()


def turned(seed, orientation, format_="PNG"):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](pixels(seed)))
    return encode(stored, format_, exif=exif)


def sixteen_bits(seed, format_):
    file = io.BytesIO()
    levels = pixels(seed, channels=1)[..., 0].astype(np.uint16) * 257
    PIL.Image.fromarray(levels).save(file, format_)
    return file.getvalue()


def transparent(seed, format_="PNG", mode="RGBA"):
    array = pixels(seed, channels=4)
    array[..., 3] = np.where(array[..., 3] > 128, 255, 0)
    file = io.BytesIO()
    PIL.Image.fromarray(array).convert(mode).save(file, format_)
    return file.getvalue()


def palette(seed, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels(seed)).quantize(32).save(file, "PNG", **options)
    return file.getvalue()


def animated(seed, format_):
    frames = [PIL.Image.fromarray(pixels(seed + i)) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, format_, save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb(width=60000, height=60000):
    """A PNG of a few bytes whose header claims that many pixels."""

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def good():
    files = {
        "jpeg/colour.jpg": encode(pixels(0), "JPEG", quality=95),
        "jpeg/progressive.jpeg": encode(pixels(1), "JPEG", progressive=True),
        "jpeg/grey.JPG": encode(pixels(2, channels=1), "JPEG"),
        "jpeg/cmyk.jpg": encode(pixels(3), "JPEG", "CMYK", quality=95),
        "jpeg/deep/er/444.jpe": encode(pixels(4), "JPEG", subsampling=0),
        "png/colour.png": encode(pixels(5), "PNG"),
        "png/grey.png": encode(pixels(6, channels=1), "PNG"),
        "png/one bit.png": encode(pixels(7), "PNG", "1"),
        "png/grey-alpha.png": transparent(8, mode="LA"),
        "png/rgba.png": transparent(9),
        "png/palette.png": palette(10),
        "png/palette-transparent.png": palette(11, transparency=3),
        "png/sixteen.png": sixteen_bits(12, "PNG"),
        "png/wrong-name.jpg": encode(pixels(13), "PNG"),
        "png/Grüße 世界.png": encode(pixels(14), "PNG"),
        "webp/lossless.webp": encode(pixels(15), "WEBP", lossless=True),
        "webp/lossy.webp": encode(pixels(16), "WEBP"),
        "webp/alpha.webp": transparent(17, "WEBP"),
        "other/plain.bmp": encode(pixels(18), "BMP"),
        "other/animated.gif": animated(19, "GIF"),
        "other/colour.tif": encode(pixels(22), "TIFF"),
        "other/lzw.tiff": encode(pixels(23), "TIFF", compression="tiff_lzw"),
        "other/cmyk.tif": encode(pixels(24), "TIFF", "CMYK"),
        "other/sixteen.tif": sixteen_bits(25, "TIFF"),
        "other/pages.tif": animated(26, "TIFF"),
    }
    files |= {f"exif/{n}.png": turned(30 + n, n) for n in range(1, 9)}
    files["exif/side.jpg"] = turned(40, 6, "JPEG")
    return files


def bad():
    """{path: (content, reason)}."""
    cut = {
        "jpg": encode(pixels(50), "JPEG", quality=95),
        "png": encode(pixels(51), "PNG"),
        "webp": encode(pixels(52), "WEBP", lossless=True),
        "gif": encode(pixels(53), "GIF"),
        "tif": encode(pixels(54), "TIFF"),
        "bmp": encode(pixels(55), "BMP"),
    }
    files = {f"png/cut.{kind}": (x[: len(x) // 2], "truncated") for kind, x in cut.items()}
    return files | {
        "png/empty.png": (b"", "empty"),
        "jpeg/text.jpg": (b"this is a letter, not an image\n" * 9, "unreadable"),
        "jpeg/page.jpg": (b"<html><body>404 Not Found</body></html>", "unreadable"),
        "jpeg/random.jpg": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8, "unreadable"),
        "other/bomb.png": (bomb(), "oversize"),
        "other/tiny.png": (encode(pixels(56, 3, 3), "PNG"), "too small"),
        "png/zz-again.png": (encode(pixels(5), "PNG"), "duplicate"),
        "webp/colour.jpg": (encode(pixels(0), "JPEG", quality=95), "duplicate"),
    }


IGNORED = {
    "notes.txt": b"about these images",
    "README.md": b"# Images",
    "jpeg/Thumbs.db": b"\x00" * 64,
    "jpeg/.DS_Store": b"\x00" * 64,
    "png/._colour.png": b"\x00\x05\x16\x07",
    "__MACOSX/png/colour.png": b"\x00\x05\x16\x07",
    ".hidden/colour.png": b"not to be looked at",
    "labels.json": b"{}",
}


def make(root):
    """Writes it; returns ({good path: content}, {bad path: reason})."""
    broken = bad()
    contents = {**good(), **{name: content for name, (content, _) in broken.items()}, **IGNORED}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return good(), {name: reason for name, (_, reason) in broken.items()}


def fill(root, *names):
    """Writes a PNG per name below ``root``, all different; returns ``root``."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(number), "PNG"))
    return root
