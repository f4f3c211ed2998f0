"""Feeds broken files to every reader, and looks for a crash, a hang or an explosion of memory.

    python tests/fuzz.py --count 10000 --seed 1

Each file begins whole and is then cut, flipped, spliced, or given huge sizes where sizes may stand.
Every one must end in one of three ways: as pictures that decode, in rejected.csv with a reason, or
in one UserError of a line or a few. Nothing may be written but where it was asked for.
"""

import argparse
import csv
import faulthandler
import functools
import io
import json
import math
import os
import pathlib
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile

import hypothesis
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from hypothesis import strategies as st

HANG = 60  # seconds that no example takes, on a busy machine either
ROOM = 3 * 2**30  # bytes of address space beyond what is mapped before the first example
GROWTH = 768 * 2**20  # bytes that the process may grow by, in all
REASONS = {"empty", "unreadable", "truncated", "oversize", "too small", "duplicate"}
MOST_PIXELS = 1_000_000


# ------------------------------------------------------------------------------------ whole files


def pixels(seed, height=24, width=20, channels=3):
    shape = (height, width, channels)[: 3 if channels else 2]
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(kind, seed=0, image=None, **options):
    file = io.BytesIO()
    image = PIL.Image.fromarray(pixels(seed)) if image is None else image
    image.save(file, kind, **options)
    return file.getvalue()


def make_pictures():
    rgb, grey = PIL.Image.fromarray(pixels(1)), PIL.Image.fromarray(pixels(2, channels=0))
    rgba = PIL.Image.fromarray(pixels(3, channels=4))
    deep = PIL.Image.fromarray(pixels(4, channels=0).astype(np.uint16) * 257)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    frames = [PIL.Image.fromarray(pixels(5 + i)) for i in range(3)]
    notes = PIL.PngImagePlugin.PngInfo()
    notes.add_text("words", "x" * 999, zip=True)
    return {
        "jpg": [
            encoded("JPEG", image=rgb, exif=exif),
            encoded("JPEG", image=rgb, progressive=True),
            encoded("JPEG", image=grey),
            encoded("JPEG", image=rgb.convert("CMYK")),
        ],
        "png": [
            encoded("PNG", image=rgb, pnginfo=notes),
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


PICTURES = make_pictures()
GOOD = [encoded("PNG", seed=100 + i) for i in range(3)]


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
    from cssl_jax.data.tfrecord import masked_crc32c

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


def make_configs():
    from cssl_jax import recipes

    return [recipes.to_json(recipes.load(name)).encode() for name in ("digits", "folder")]


# -------------------------------------------------------------------------------------- mutations

HUGE = [
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in (("H", (0xFFFF, 0x7FFF)), ("I", (0xFFFFFFFF, 0x7FFFFFFF, 0x10000000)),
                         ("Q", (2**63, 2**40, 2**64 - 1)))
    for value in values
]  # fmt: skip
TEXT = [
    b"99999999999999999999", b"-1", b"1e999", b"NaN", b"null", b'"\\ud800"', b"[" * 5000, b"\x00",
    b"../../../etc/passwd", b"%s%n", b"{}", b"1" + b"0" * 400, b"true", b'"', b"\xff\xfe",
]  # fmt: skip


def place(draw, content):
    """Somewhere, often in the header."""
    end = len(content)
    return draw(st.one_of(st.integers(0, min(96, end)), st.integers(0, end)))


def cut(draw, content, other):
    return content[: place(draw, content)]


def flip(draw, content, other):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6)) if content else 0):
        changed[min(place(draw, content), len(content) - 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def overwrite(draw, content, other):
    at, new = place(draw, content), draw(st.sampled_from([*HUGE, *TEXT]))
    return content[:at] + new + content[at + len(new) :]


def insert(draw, content, other):
    at, new = place(draw, content), draw(st.one_of(st.binary(max_size=40), st.sampled_from(TEXT)))
    return content[:at] + new + content[at:]


def remove(draw, content, other):
    at = place(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 200)) :]


def repeat(draw, content, other):
    at = place(draw, content)
    part = content[at : at + draw(st.integers(1, 600))]
    return content[:at] + part * draw(st.integers(2, 5)) + content[at:]


def splice(draw, content, other):
    return content[: place(draw, content)] + other[place(draw, other) :]


def blank(draw, content, other):
    at, size = place(draw, content), draw(st.integers(1, 600))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


MUTATIONS = (flip, flip, flip, overwrite, overwrite, blank, cut, insert, remove, repeat, splice)


def broken(draw, content, other):
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(MUTATIONS))(draw, content, other)
    return content


# ------------------------------------------------------------------------- what must hold of a set


class Refused(Exception):  # noqa: N818
    """A UserError, as it should be."""


def one_message(function, *args, **options):
    """What a function gives, or Refused where it says what is wrong in a UserError."""
    from cssl_jax.errors import UserError

    try:
        return function(*args, **options)
    except UserError as error:
        text = str(error)
        assert text.strip(), "an empty message"
        assert len(text) < 4000, f"a message of {len(text)} letters: {text[:200]}"
        assert "Traceback" not in text
        raise Refused from error


def check_set(spec, folder, kept=()):
    """Every picture of a set decodes, or is in rejected.csv; those of ``kept`` decode."""
    from cssl_jax.data import scan
    from cssl_jax.data.loading import load_source, open_records
    from cssl_jax.data.options import PictureOptions

    options = PictureOptions(max_rejected=1.0, max_pixels=MOST_PIXELS)
    records = one_message(open_records, spec, options)
    index = scan.scan(records, channels=3, min_side=8, max_pixels=MOST_PIXELS)
    rows = scan.rejected(records.names, index)
    file = folder / "rejected.csv"
    scan.write_rejected(file, rows)
    with file.open(newline="", errors="surrogateescape") as content:
        read = list(csv.DictReader(content))
    assert len(read) == len(rows) == sum(bool(reason) for reason in index.reason)
    assert all(row["reason"] in REASONS for row in read), read
    bad = {name for name, *_ in rows}
    assert not bad & set(kept), (rows, kept)
    assert all(name in records.names for name in kept)
    source = one_message(load_source, spec, options)
    assert len(source) == len(index.kept)
    for block in source.blocks(64, 8):
        assert block.dtype == np.uint8
        assert block.shape[-1] == 3


def fuzz_folder(draw, folder):
    root = folder / "pictures"
    root.mkdir()
    for i, content in enumerate(GOOD):
        (root / f"good{i}.png").write_bytes(content)
    kinds = sorted(PICTURES)
    for i in range(draw(st.integers(1, 4))):
        kind, name = draw(st.sampled_from(kinds)), draw(st.sampled_from(kinds))
        content = draw(st.sampled_from(PICTURES[kind]))
        other = draw(st.sampled_from(PICTURES[draw(st.sampled_from(kinds))]))
        name = kind if draw(st.booleans()) else name  # a suffix may be wrong
        (root / f"{i}.{name}").write_bytes(broken(draw, content, other))
    check_set(str(root), folder, [f"good{i}.png" for i in range(len(GOOD))])


def broken_pictures(draw):
    chosen = [draw(st.sampled_from(PICTURES[kind])) for kind in ("png", "jpg", "webp", "tif")]
    return [GOOD[0], *(broken(draw, content, GOOD[1]) for content in chosen)]


def fuzz_tar(draw, folder):
    """The shard is broken, or what a whole one holds."""
    if draw(st.booleans()):
        text = broken(draw, b'{"label": 1, "words": "a photo"}', b"{}")
        content = make_tar(contents=broken_pictures(draw), text=text)
    else:
        content = broken(draw, draw(st.sampled_from(TARS)), draw(st.sampled_from(TARS)))
    (folder / "a.tar").write_bytes(content)
    check_set(str(folder / "a.tar"), folder)


def fuzz_parquet(draw, folder):
    if draw(st.booleans()):
        content = make_parquet(broken_pictures(draw))
    else:
        content = broken(draw, draw(st.sampled_from(PARQUETS)), draw(st.sampled_from(PARQUETS)))
    (folder / "a.parquet").write_bytes(content)
    check_set(str(folder / "a.parquet"), folder)


def fuzz_tfds(draw, folder):
    """A prepared set: its records, or what describes them."""
    root = folder / "set" / "1.0.0"
    root.mkdir(parents=True)
    files = draw(st.sampled_from(TFDS))
    chosen = draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        content = broken(draw, content, content) if name == chosen else content
        (root / name).write_bytes(content)
    check_set(f"tfds:{root}@train", folder)


def fuzz_tfrecord(draw, folder):
    from cssl_jax.data.shards import open_shard
    from cssl_jax.data.tfrecord import open_tfrecords

    content = make_tfrecord(GOOD)
    (folder / "a.tfrecord").write_bytes(broken(draw, content, content))
    shard = open_shard(folder / "a.tfrecord", folder)
    found = one_message(open_tfrecords, [shard])
    for i in range(min(len(found.sizes[0]), 50)):
        assert len(found.read(0, i)) == found.sizes[0][i]


def fuzz_npz(draw, folder):
    from cssl_jax.data.loading import load_source

    if draw(st.booleans()):  # whole to zip, broken to NumPy
        with zipfile.ZipFile(folder / "a.npz", "w") as file:
            for name, array in (("images", np.stack([pixels(i) for i in range(3)])),
                                ("labels", np.arange(3))):  # fmt: skip
                member = io.BytesIO()
                np.save(member, array)
                content = member.getvalue()
                file.writestr(f"{name}.npy", broken(draw, content, content))
    else:
        content = broken(draw, draw(st.sampled_from(NPZS)), draw(st.sampled_from(NPZS)))
        (folder / "a.npz").write_bytes(content)
    source = one_message(load_source, str(folder / "a.npz"))
    assert source.images.dtype == np.uint8
    assert source.images.ndim == 4


def fuzz_list(draw, folder):
    names = [f"p{i}.png" for i in range(3)]
    for name, content in zip(names, GOOD, strict=True):
        (folder / name).write_bytes(content)
    text = "path,label,class\n" + "".join(f"{n},{i},kind {i}\n" for i, n in enumerate(names))
    (folder / "a.csv").write_bytes(broken(draw, text.encode(), text.encode()))
    check_set(str(folder / "a.csv"), folder)


def leaves(tree, prefix=""):
    for name, value in tree.items():
        nested = isinstance(value, dict)
        yield from leaves(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.integers(0, 9), st.floats(0, 1), st.sampled_from(["none", "auto", "digits", "cosine"]),
        st.sampled_from([10**400, -1, 2**63, 1e308, 5e-324, float("nan"), float("inf"), "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


def fuzz_config(draw, folder):
    """A run's config.json with broken bytes, or with wrong values in the right places."""
    from cssl_jax import recipes

    content = draw(st.sampled_from(CONFIGS))
    if draw(st.booleans()):
        content = broken(draw, content, draw(st.sampled_from(CONFIGS)))
    else:
        tree = json.loads(content)
        for _ in range(draw(st.integers(1, 3))):
            section, field = draw(st.sampled_from(sorted(leaves(tree)))).split(".", 1)
            tree[section][field.partition(".")[0]] = draw(ANYTHING)
        content = json.dumps(tree).encode()
    (folder / "config.json").write_bytes(content)
    config = one_message(recipes.read_json, folder / "config.json")
    assert recipes.from_dict(json.loads(recipes.to_json(config))) == config
    assert len(recipes.config_hash(config)) == 12


def fuzz_options(draw, folder):
    """Words of a command line that set config fields."""
    from cssl_jax import recipes
    from cssl_jax.commands.parsing import parse
    from cssl_jax.commands.training import BenchInput

    words = ["digits"]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(OPTIONS)).replace("_", "-")
        values = st.one_of(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
            st.sampled_from(
                [
                    "-1",
                    "1e999",
                    "nan",
                    "",
                    "None",
                    "auto",
                    "0",
                    "1",
                    "0.5",
                    "8",
                    "1" + "0" * 400,
                    "[1]",
                ]
            ),
        )
        words += [f"--{name}", draw(values)]
    quiet, options, code = io.StringIO(), None, None
    out, err = sys.stdout, sys.stderr
    try:
        sys.stdout = sys.stderr = quiet
        default = BenchInput("digits", config=DEFAULT)
        options = one_message(parse, BenchInput, "bench-input", words, default)
    except SystemExit as exit_:  # tyro has shown how the words do not fit
        code = exit_.code
    finally:
        sys.stdout, sys.stderr = out, err
    if options is None:
        assert code in (0, 2)
        assert quiet.getvalue().strip()
        raise Refused
    one_message(recipes.canonical, options.config)


def fuzz_run(draw, folder):
    """What a report reads of a run folder."""
    from cssl_jax.evaluate.run_folder import open_run

    lines = "".join(
        json.dumps({"step": s, "epoch": s / 10, "loss": 1.0, "chance_level": 5.0}) + "\n"
        + json.dumps({"step": s, "epoch": s / 10, "knn.top1": 0.5, "features.rankme": 9.0}) + "\n"
        for s in (10, 20)
    )  # fmt: skip
    results = json.dumps({"step": 20, "knn": {"top1": 0.5}, "random_init": {"knn": {"top1": 0.4}}})
    files = {"config.json": CONFIGS[0], "metrics.jsonl": lines.encode(),
             "timings.jsonl": b'{"step": 10, "seconds": 1.0, "input_wait": 0.5}\n',
             "results.json": results.encode()}  # fmt: skip
    chosen = draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        content = broken(draw, content, content) if name == chosen else content
        (folder / name).write_bytes(content)
    run = one_message(open_run, folder)
    assert run.state


FUZZERS = {
    "folder": fuzz_folder, "tar": fuzz_tar, "parquet": fuzz_parquet, "tfrecord": fuzz_tfrecord,
    "npz": fuzz_npz, "list": fuzz_list, "config": fuzz_config, "options": fuzz_options,
    "run": fuzz_run, "tfds": fuzz_tfds,
}  # fmt: skip
# Pictures are the largest part of what can go wrong.
SHARES = [*FUZZERS, "folder", "folder", "folder", "tar", "parquet", "npz"]


# --------------------------------------------------------------------------------- TFDS, by hand


def make_tfds():
    """Prepared sets in two formats: TFDS's own files, written without TensorFlow."""
    from array_record.python import array_record_module

    examples = [example(content, i % 2) for i, content in enumerate(GOOD)]
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {
            "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                      "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8",
                                "encodingFormat": "png"}},
            "label": {
                "pythonClassName":
                    "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "2"}},
        }},
    }  # fmt: skip
    found = []
    for kind, suffix in (("tfrecord", "tfrecord"), ("array_record", "array_record")):
        about = {
            "name": "set", "version": "1.0.0", "fileFormat": kind,
            "splits": [{"name": "train", "shardLengths": [str(len(examples))], "numBytes": "999",
                        "filepathTemplate":
                            "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}],
        }  # fmt: skip
        if kind == "tfrecord":
            records = make_tfrecord(examples)
        else:
            with tempfile.TemporaryDirectory() as place_:
                path = os.path.join(place_, "a")
                writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
                for content in examples:
                    writer.write(content)
                writer.close()
                records = pathlib.Path(path).read_bytes()
        found.append(
            {
                "dataset_info.json": json.dumps(about).encode(),
                "features.json": json.dumps(features).encode(),
                "label.labels.txt": b"cat\ndog\n",
                f"set-train.{suffix}-00000-of-00001": records,
            }
        )
    return found


def example(image, label):
    """A tf.train.Example, serialised by hand."""

    def field(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    parts = {
        "image": field(1, field(1, image)),
        "label": field(3, field(1, varint(label))),
    }
    entries = [field(1, field(1, name.encode()) + field(2, value)) for name, value in parts.items()]
    return field(1, b"".join(entries))


# -------------------------------------------------------------------------------------------- run


def prepare(with_tfds):
    global TARS, PARQUETS, NPZS, CONFIGS, OPTIONS, DEFAULT, TFDS
    from cssl_jax import recipes
    from cssl_jax.config import Config

    TARS = [make_tar(), make_tar(tarfile.GNU_FORMAT)]
    PARQUETS = [make_parquet(), make_parquet(compression="gzip", use_dictionary=False)]
    NPZS = [make_npz(np.savez), make_npz(np.savez_compressed)]
    CONFIGS = make_configs()
    DEFAULT = recipes.load("digits")
    OPTIONS = sorted(leaves(recipes.to_dict(Config())))
    if with_tfds:
        TFDS = make_tfds()


def check_whole_files(shares, folder):
    """What is not broken is read: else the rest would show nothing."""

    def whole(draw, content, other):
        return content

    changed, globals()["broken"] = broken, whole
    try:
        for name in set(shares) - {"options"}:
            for turn in range(2):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                FUZZERS[name](functools.partial(first, turn=turn), folder)
    finally:
        globals()["broken"] = changed


def first(strategy, turn):
    """The first or second of what may be chosen, without Hypothesis."""
    if isinstance(strategy, type(st.sampled_from([0, 1]))):
        return strategy.elements[turn % len(strategy.elements)]
    return True


def try_reader(name, examples, seed, root, ends):
    """Counts in ``ends`` how many were read, and how many refused."""
    outside = root / "outside"
    folder = outside / "inside"

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    @hypothesis.given(st.data())
    def one(data):
        shutil.rmtree(outside, ignore_errors=True)
        folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            FUZZERS[name](data.draw, folder)
            ends[0] += 1
        except Refused:
            ends[1] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert listing(outside) == [str(folder)]
        assert {path.name for path in root.iterdir()} <= {"outside", "cache"}

    one()


def listing(folder):
    return sorted(str(path) for path in folder.iterdir())


def run(count, seed, only=()):
    """Raises at the first example, made as small as it goes, that ends as none should."""
    shares = [name for name in SHARES if not only or name in only]
    prepare("tfds" in shares)
    ends = {name: [0, 0] for name in FUZZERS}
    root = pathlib.Path(tempfile.mkdtemp(prefix="cssl-fuzz-"))
    os.environ["CSSL_JAX_CACHE"] = str(root / "cache")
    check_whole_files(shares, root / "outside" / "inside")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, mapped + ROOM))

    try:
        for name in sorted(set(shares)):
            examples = math.ceil(count * shares.count(name) / len(shares))
            try_reader(name, examples, seed, root, ends[name])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return ends, grown


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=sorted(FUZZERS), default=())
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # decoders', about single files
    ends, grown = run(options.count, options.seed, options.only)
    print(f"{'reader':<10}{'files':>8}{'read':>8}{'refused':>9}")
    for name, (read, refused) in ends.items():
        print(f"{name:<10}{read + refused:>8}{read:>8}{refused:>9}")
    print(f"grew by {grown / 2**20:.0f} MiB at most")
    assert grown < GROWTH, "memory exploded"
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
