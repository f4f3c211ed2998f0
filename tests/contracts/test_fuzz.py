"""Hostile files: bombs, pipes, links and names that want out; and thousands that are broken."""

import ast
import csv
import io
import os
import pathlib
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import fuzz
import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning import scan
from cssl_jax.data.formats import walk
from cssl_jax.data.sources import decode
from cssl_jax.data.sources.open import load_source, open_records
from cssl_jax.data.sources.segmentation_masks import load_masks
from cssl_jax.errors import UserError
from helpers.fuzzing.samples import GOOD, encoded
from tests.helpers.marks import fast, slow

ROOT = pathlib.Path(cssl_jax.__file__).parent
COUNT = os.environ.get("CSSL_FUZZ", "300")


@pytest.mark.slow
def test_broken_files_of_every_format_end_in_images_rejects_or_one_message():
    """A process of its own: a crash of a decoder, a hang, or too much memory ends that one."""
    command = [sys.executable, fuzz.__file__, "--count", COUNT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    counts = dict(re.findall(r"^(\w+) +(\d+) +\d+ +\d+$", done.stdout, re.MULTILINE))
    assert sum(map(int, counts.values())) >= int(COUNT)
    assert all(int(count) > 0 for count in counts.values()), done.stdout


def rejected(source, tmp_path, **options):
    """{name: reason} of rejected.csv."""
    records = open_records(str(source), ImageOptions())
    limits = {"channels": 3, "min_side": 8, "max_pixels": 10**6, **options}
    index = scan.scan(records, **limits)
    scan.write_rejected(tmp_path / "rejected.csv", scan.rejected(records.names, index))
    with (tmp_path / "rejected.csv").open(newline="", errors="surrogateescape") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "good.png").write_bytes(GOOD[0])
    return tmp_path / "images"


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width, height, *chunks, data=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


ZEROS = zlib.compress(bytes(2**27), 9)  # 128 MiB in 128 KiB
BOMBS = {
    "claims.png": (png(2**31 - 1, 2**31 - 1), "oversize"),
    "large.png": (png(40_000, 40_000, data=ZEROS), "oversize"),
    "text.png": (png(16, 16, chunk(b"zTXt", b"k\0\0" + ZEROS), data=zlib.compress(bytes(784))), ""),
    "profile.png": (
        png(16, 16, chunk(b"iCCP", b"k\0\0" + ZEROS), data=zlib.compress(bytes(784))),
        "",
    ),
    "canvas.gif": (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + struct.pack("<BHHHHB", 0x2C, 0, 0, 65535, 65535, 0)
        + b"\x02\x02\x44\x01\x00;",
        "oversize",
    ),
    "rows.bmp": (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
        "oversize",
    ),
}


@pytest.mark.parametrize("name", fast(BOMBS, ["rows.bmp"]))
def test_a_image_that_would_unpack_to_more_than_the_limit_is_not_unpacked(place, tmp_path, name):
    content, reason = BOMBS[name]
    (place / name).write_bytes(content)
    code = (
        "import resource, sys, pathlib\n"
        "from cssl_jax.data.sources import decode\n"
        "content = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode.decode_image(content, 3, 10**6)\n"
        "except decode.ImageError as error: print(error.reason)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, place / name], capture_output=True, text=True, check=True
    )
    *found, grown = done.stdout.split()
    assert int(grown) < 100 * 1024  # KiB
    if reason:
        assert found == [reason]
        assert rejected(place, tmp_path) == {name: reason}


@pytest.mark.parametrize("save", [slow("zip"), "header"])
def test_an_archive_of_arrays_that_unpacks_without_end_is_refused(tmp_path, save):
    path, header = tmp_path / "bomb.npz", io.BytesIO()
    shape = (2**20, 64, 64, 3) if save == "header" else (4, 8192, 8192, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(768 if save == "zip" else 1):
            member.write(bytes(2**20))
    with pytest.raises(UserError, match=r"would decompress from|is not a readable"):
        load_source(str(path))


def test_an_array_under_the_name_of_an_archive_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        load_source(str(tmp_path / "a.npz"))


def test_pickles_are_refused_in_every_place_where_arrays_are_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    objects = np.array([Bomb()], object)
    np.savez(tmp_path / "a.npz", images=objects, labels=objects)
    with pytest.raises(UserError, match="plain arrays"):
        load_source(str(tmp_path / "a.npz"))
    assert not (tmp_path / "exploded").exists()


def test_pipes_devices_and_folders_named_as_images_are_rejected_at_once(place, tmp_path):
    os.mkfifo(place / "pipe.png")
    (place / "zero.png").symlink_to("/dev/zero")
    (place / "random.jpg").symlink_to("/dev/urandom")
    (place / "loop.png").symlink_to(place / "loop.png")
    (place / "nowhere.png").symlink_to(place / "nothing")
    with (place / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    names = ("pipe.png", "zero.png", "random.jpg", "sparse.png")
    assert rejected(place, tmp_path) == dict.fromkeys(names, "unreadable")


def test_folders_that_link_to_each_other_have_an_end(place):
    for i in range(9):
        (place / f"f{i}").mkdir()
    for i in range(9):
        for j in range(9):
            (place / f"f{i}" / f"to{j}").symlink_to(place / f"f{j}")
    with pytest.raises(UserError, match="remove the circular links"):
        open_records(str(place), ImageOptions())
    assert walk.MAX_VISITS == 100


def test_names_that_lead_out_stay_names(tmp_path):
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    names = [
        "../../escaped.png",
        "/tmp/escaped.png",
        "a\nb.png",
        '"q",=1+1.png',
        "x" * 200 + ".png",
    ]
    with tarfile.open(inside / "a.tar", "w") as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = GOOD[0] if i else b"broken"
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*"))
    found = rejected(inside / "a.tar", inside)
    assert found.pop("a.tar:../../escaped") == "unreadable"
    assert set(found.values()) == {"duplicate"}
    assert sorted(tmp_path.rglob("*")) == sorted([*before, inside / "rejected.csv"])
    assert not os.path.exists("/tmp/escaped.png")


def test_a_jpeg_without_its_end_is_left_to_the_decoder_that_needs_none():
    # TensorFlow's refuses it in the middle of a run; the scan, which is Pillow's, has all its rows.
    whole = encoded("JPEG", seed=1)
    assert decode.decode_image(whole, 3).plain_jpeg
    for end in (bytes(100) + b"\xff\xdd", b"\xff\xd0" + bytes(600), b"\xff\xd9" + bytes(100)):
        found = decode.decode_image(whole[:-2] + end, 3)
        assert not found.plain_jpeg
        np.testing.assert_array_equal(found.pixels, decode.decode(whole, 3))


def test_a_list_may_hold_any_bytes(place):
    table = place / "a.csv"
    table.write_bytes(b"path,label\ngood.png,1\n\x00.png,2\n")
    with pytest.raises(UserError, match="does not contain; give paths relative"):
        open_records(str(table), ImageOptions())


@pytest.mark.parametrize("content", [
    "[" * 100_000, '{"data": ' * 20_000, '{"model": {"width": 1' + "0" * 400 + "}}",
    '{"model": {"width": 1e308}}', '{"train": {"seed": NaN}}', '"text"',
])  # fmt: skip
def test_a_config_may_hold_any_json(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError):
        recipes.read_json(tmp_path / "config.json")


@pytest.fixture
def masked(tmp_path):
    """Two images with masks; returns the folder of the masks."""
    for part, offset in (("images", 60), ("masks", 0)):
        (tmp_path / part).mkdir()
        for i in range(2):
            grey = np.kron([[0, 1], [2, i]], np.ones((4, 4))).astype(np.uint8) + offset
            PIL.Image.fromarray(grey).save(tmp_path / part / f"{i}.png")
    return tmp_path / "masks"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POSTSCRIPT, "not a PNG file; write it again as a PNG"),
        (encoded("JPEG", seed=1), "not a PNG file"),
        (b"", "empty: 0 bytes"),
        (encoded("PNG", seed=1)[:70], "cannot be read as a mask"),
        (BOMBS["claims.png"][0], "at most 100,000,000 pixels; raise --data.max-pixels"),
        (BOMBS["large.png"][0], "40000 x 40000 px, at most 100,000,000 pixels"),
    ],
    ids=["postscript", "jpeg", "empty", "cut", "header", "zeros"],
)
def test_a_mask_is_a_png_within_the_limits_or_one_message(masked, monkeypatch, content, message):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: started.append(words))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    (masked / "1.png").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_masks(str(masked.parent), ImageOptions(channels=1))
    assert "masks/1.png" in str(caught.value)
    assert not started  # Pillow hands PostScript to Ghostscript


def test_a_mask_that_is_a_pipe_or_a_device_is_refused_at_once(masked):
    for target in ("/dev/zero", "/dev/urandom"):
        (masked / "1.png").unlink()
        (masked / "1.png").symlink_to(target)
        with pytest.raises(UserError, match=r"lacks 1\.png|not a regular file"):
            load_masks(str(masked.parent), ImageOptions(channels=1))


def test_the_limit_of_pixels_holds_for_masks(masked):
    options = ImageOptions(channels=1, max_pixels=64)
    assert load_masks(str(masked.parent), options).num_classes == 3
    PIL.Image.fromarray(np.zeros((9, 8), np.uint8)).save(masked / "0.png")
    with pytest.raises(UserError, match="8 x 9 px, at most 64 pixels; raise --data"):
        load_masks(str(masked.parent), options)


def test_masks_in_an_archive_are_read_as_carefully_as_its_images(tmp_path):
    objects = np.array([{}], object)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, masks=objects)
    with pytest.raises(UserError, match=r"plain arrays; write it with numpy\.savez\(path, masks="):
        load_masks(str(tmp_path / "a.npz"), ImageOptions(channels=1))


FORBIDDEN = {"eval", "exec", "compile", "__import__"}  # of Python's own functions
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_no_module_runs_code_that_it_reads(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not UNPICKLING & {name.partition(".")[0] for name in names}, path
    for call in calls(tree):
        if isinstance(call.func, ast.Name):
            assert call.func.id not in FORBIDDEN, (path, call.lineno)
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) in (
            "np.load",
            "numpy.load",
        ):
            allowed = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert allowed.get("allow_pickle") == "False", (path, call.lineno)
        # Pillow's own would try every format, PostScript among them; see ``decode.open_image``.
        assert not re.search(r"\bImage\.open$", ast.unparse(call.func)), (path, call.lineno)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "exec_module":
            # A recipe, a space or an extension, which its user names or trusts on purpose.
            assert path.name == "registries.py"
