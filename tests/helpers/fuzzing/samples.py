"""Whole files of every format, which are then broken."""

import functools
import io
import json
import pathlib
import struct
import tarfile
import tempfile

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "goldens"


def pixels(seed, height=24, width=20, channels=3):
    shape = (height, width, channels)[: 3 if channels else 2]
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(kind, seed=0, image=None, **options):
    file = io.BytesIO()
    image = PIL.Image.fromarray(pixels(seed)) if image is None else image
    image.save(file, kind, **options)
    return file.getvalue()


def make_notes():
    notes = PIL.PngImagePlugin.PngInfo()
    notes.add_text("words", "x" * 999, zip=True)
    return notes


PICTURE_NOTES = make_notes()


def make_images():
    rgb, grey = PIL.Image.fromarray(pixels(1)), PIL.Image.fromarray(pixels(2, channels=0))
    rgba = PIL.Image.fromarray(pixels(3, channels=4))
    deep = PIL.Image.fromarray(pixels(4, channels=0).astype(np.uint16) * 257)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    frames = [PIL.Image.fromarray(pixels(5 + i)) for i in range(3)]
    return {
        "jpg": [
            encoded("JPEG", image=rgb, exif=exif),
            encoded("JPEG", image=rgb, progressive=True),
            encoded("JPEG", image=grey),
            encoded("JPEG", image=rgb.convert("CMYK")),
        ],
        "png": [
            encoded("PNG", image=rgb, pnginfo=PICTURE_NOTES),
            encoded("PNG", image=rgba),
            encoded("PNG", image=deep),
            encoded("PNG", image=rgb.quantize(16), transparency=3),
        ],
        "webp": [
            encoded("WEBP", image=rgb),
            encoded("WEBP", image=rgba, lossless=True),
            encoded("WEBP", image=frames[0], save_all=True, append_images=frames[1:]),
        ],
        "bmp": [encoded("BMP", image=rgb), encoded("BMP", image=grey)],
        "gif": [encoded("GIF", image=frames[0], save_all=True, append_images=frames[1:])],
        "tif": [
            encoded("TIFF", image=rgb),
            encoded("TIFF", image=deep),
            encoded("TIFF", image=rgb, compression="tiff_lzw"),
            encoded("TIFF", image=rgb, compression="tiff_adobe_deflate"),
            encoded("TIFF", image=rgb, compression="jpeg"),
            encoded("TIFF", image=frames[0], save_all=True, append_images=frames[1:]),
        ],
    }


IMAGES = make_images()
GOOD = [encoded("PNG", seed=100 + i) for i in range(3)]
CLASSES = np.kron([[0, 1], [2, 255]], np.ones((12, 10))).astype(np.uint8)  # of a mask
_GREY = PIL.Image.fromarray(CLASSES)
MASKS = [
    encoded("PNG", image=_GREY),
    encoded("PNG", image=_GREY.convert("P")),
    encoded("PNG", image=_GREY, pnginfo=PICTURE_NOTES),
]
NO_MASKS = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n%%EndComments\nshowpage\n%%EOF\n",
    *(encoded(kind, image=_GREY) for kind in ("JPEG", "TIFF", "GIF", "EPS", "PCX", "ICO")),
    encoded("PNG", seed=1),
]


def make_tar(format=tarfile.PAX_FORMAT, contents=GOOD, text=b'{"label": 1}'):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for i, content in enumerate(contents):
            label = {f"{i}.json": text} if i % 2 else {f"{i}.cls": b"1"}
            parts = {f"{'long/' * 30 * (i % 2)}{i}.png": content, **label}
            for name, data in parts.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def make_tfrecord(contents):
    from cssl_jax.data.formats.tfrecord import masked_crc32c

    parts = []
    for content in contents:
        size = struct.pack("<Q", len(content))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (size, content)]
        parts += [size, checks[0], content, checks[1]]
    return b"".join(parts)


def make_parquet(contents=(*GOOD, GOOD[0]), **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    described = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    table = pa.table(
        {
            "image": [{"bytes": content, "path": "x"} for content in contents],
            "label": pa.array(np.arange(len(contents)) % 2, pa.int64()),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": described}})})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=2, **options)
    return file.getvalue()


def make_npz(save):
    file = io.BytesIO()
    save(file, images=np.stack([pixels(i) for i in range(6)]), labels=np.arange(6) % 2)
    return file.getvalue()


@functools.cache
def tars():
    return [make_tar(), make_tar(tarfile.GNU_FORMAT)]


@functools.cache
def parquets():
    return [make_parquet(), make_parquet(compression="gzip", use_dictionary=False)]


@functools.cache
def npzs():
    return [make_npz(np.savez), make_npz(np.savez_compressed)]


@functools.cache
def configs():
    from cssl_jax import recipes

    return [recipes.to_json(recipes.load(name)).encode() for name in ("digits", "folder")]


@functools.cache
def torch_files():
    with np.load(GOLDENS / "pytorch_files.npz") as content:
        return [content[f"file/{name}"].tobytes() for name in ("zip", "legacy", "protocol4")]


@functools.cache
def safetensors_files():
    from cssl_jax.interop import safetensors

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.safetensors"
        safetensors.write(path, {"a": pixels(0), "b": np.zeros((2, 3), np.float32)}, {"c": "d"})
        return [path.read_bytes()]


@functools.cache
def tf_checkpoints():
    """(index, its block of entries, values) of checkpoints that TensorFlow writes."""
    import tensorflow as tf

    rng, found = np.random.default_rng(0), []
    for count in (2, 30):
        content = {f"base_model/conv2d_{i}/kernel": rng.random((2, i + 1)) for i in range(count)}
        content["global_step"] = np.int64(3)
        with tempfile.TemporaryDirectory() as folder:
            tf.raw_ops.SaveV2(
                prefix=f"{folder}/a",
                tensor_names=list(content),
                shape_and_slices=[""] * len(content),
                tensors=[tf.constant(value) for value in content.values()],
            )
            index = (pathlib.Path(folder) / "a.index").read_bytes()
            values = (pathlib.Path(folder) / "a.data-00000-of-00001").read_bytes()
        # The footer begins with the place of the second block, a number of 7 bits per byte. The
        # first one ends before its type and checksum, which take 5 bytes.
        low, high = index[-48:-46]
        second = low if low < 128 else low & 127 | high << 7
        found.append((index, index[: second - 5], values))
    return tuple(found)
