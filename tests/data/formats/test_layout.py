"""How the content of a folder is recognised, and the notes on files that are not read."""

import io
import json
import os
import re
import tarfile
import types

import numpy as np
import PIL.Image
import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats import walk
from cssl_jax.data.formats.image_folder import FileRecords, open_folder
from cssl_jax.data.sources import decode
from cssl_jax.data.sources.open import load_source, open_records
from cssl_jax.errors import UserError
from cssl_jax.runtime import process
from cssl_jax.train.announcement import announce
from cssl_jax.train.hooks import Run
from helpers import dirty_images, solid_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))


# ----------------------------------------------------------------------------- splits, and masks

SPLITS = [
    ("train", "test", "unlabeled"),  # STL-10
    ("train", "test1"),  # Dogs vs. Cats
    ("trainA", "trainB", "testA", "testB"),  # CycleGAN
    ("train2017", "val2017", "test2017"),  # COCO
    ("training_set", "test_set"),
    ("train", "test", "extra"),  # SVHN
    ("train_images", "val_images"),
    ("images_train", "images_test"),
    ("labeled", "unlabeled"),
    ("seg_train", "seg_test", "seg_pred"),
]


@pytest.mark.parametrize("folders", SPLITS[:-1])
@pytest.mark.parametrize("labels", ["auto", "folder"])
def test_splits_are_not_taken_for_classes(tmp_path, folders, labels):
    root = dirty_images.fill(
        tmp_path / "set", *(f"{name}/{i}.png" for name in folders for i in range(2))
    )
    with pytest.raises(UserError, match="which are not classes; give one of them") as refused:
        open_folder(root, labels)
    # The command that the message gives works.
    assert len(open_folder(root, "none").names) == 2 * len(folders)
    given = str(refused.value).partition("give one of them, ")[2].split()[0].rstrip(",")
    assert len(open_folder(given).names) == 2


def test_a_validation_split_is_named_beside_the_training_split(tmp_path):
    root = dirty_images.fill(
        tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"
    )
    with pytest.raises(UserError, match=f"--data.validation-source {root}/val"):
        open_folder(root)


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("imgs", "labels"), ("JPEGImages", "SegmentationClass")]
)
def test_images_and_masks_are_not_taken_for_classes(tmp_path, folders):
    root = dirty_images.fill(
        tmp_path / "set", *(f"{name}/{i}.png" for name in folders for i in range(2))
    )
    with pytest.raises(UserError, match="images and their masks") as refused:
        open_folder(root)
    assert f"give the images alone, {root}/{folders[0]}." in str(refused.value)
    assert "--protocol segment" in str(refused.value)


@pytest.mark.parametrize(
    "folders", [("train", "plane", "car"), ("image", "text"), ("test", "control"), ("a", "b")]
)
def test_classes_that_are_called_like_splits_are_classes(tmp_path, folders):
    root = dirty_images.fill(tmp_path / "set", *(f"{name}/1.png" for name in folders))
    assert open_folder(root).classes == tuple(sorted(folders))


# --------------------------------------------------------------------------------- why no labels


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("data/a/1.png", "data/b/2.png"),
            "all images are in one sub-folder, data; give ROOT/data",
        ),
        (("a/1.png", "b/2.png", "x.png"), r"1 image is in no sub-folder \(x\.png\)"),
        (("a/1.png", "a/2.png"), "all images are in one sub-folder, a; classes need two"),
    ],
)
def test_a_note_explains_why_there_are_no_labels(tmp_path, names, words, capsys):
    root = dirty_images.fill(tmp_path / "set", *names)
    records = open_folder(root)
    assert records.labels is None
    (note,) = records.notes
    assert re.search(words.replace("ROOT", str(root)), note)
    assert cli.main(["data", "check", str(root), "--min-side", "1"]) == 0
    assert note in capsys.readouterr().out


def test_images_in_one_flat_folder_need_no_explanation(tmp_path):
    assert open_folder(dirty_images.fill(tmp_path, "1.png", "2.png")).notes == ()


def test_a_folder_that_cannot_be_read_is_named_with_the_way_out(tmp_path, monkeypatch):
    root = dirty_images.fill(tmp_path / "set", "a/1.png", "b/2.png")
    scandir = os.scandir

    def locked(path):
        if str(path).rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match=r"folder .*/b.* cannot be read: Permission .*chmod"):
        open_folder(root)


def test_a_folder_of_save_to_disk_is_refused_with_a_command_that_converts_it(tmp_path):
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"save_to_disk.*to_parquet"):
        open_records(str(tmp_path), ImageOptions())


# --------------------------------------------------------------- archives next to folders of images


def tar(path, count):
    with tarfile.open(path, "w") as file:
        for number in range(count):
            content = solid_images.png(np.full((9, 9, 3), number, np.uint8))
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("archive", ["x.tar", "x.parquet"])
def test_class_folders_are_read_though_an_archive_is_next_to_them(tmp_path, archive):
    root = dirty_images.fill(tmp_path / "set", "a/1.png", "b/2.png", "b/3.png")
    tar(root / archive, 5)
    records = open_records(str(root), ImageOptions())
    assert isinstance(records, FileRecords)
    assert records.classes == ("a", "b")
    assert (
        f"1 of 4 files of {root} are not read: 1 {root.joinpath(archive).suffix} (an archive"
        in (records.notes[0])
    )


def test_shards_are_read_though_a_preview_image_is_next_to_them(tmp_path):
    root = dirty_images.fill(tmp_path / "set", "preview/1.png")
    for number in range(3):
        tar(root / f"{number}.tar", 4)
    records = open_records(str(root), ImageOptions())
    assert len(records.names) == 12
    assert records.notes == (f"images next to the shards of {root} are not read",)


@pytest.mark.parametrize("kind", ["list", "tar", "parquet"])
def test_fields_that_may_be_the_label_and_are_not_read_are_named(tmp_path, kind):
    content = solid_images.png(np.full((9, 9, 3), 7, np.uint8))
    if kind == "list":
        (tmp_path / "1.png").write_bytes(content)
        (tmp_path / "a.csv").write_text("path,species,site\n1.png,ant,3\n")
        source, words = str(tmp_path / "a.csv"), r"columns species, site .*, rename it to 'label'"
    elif kind == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            for suffix, data in (("png", content), ("txt", b"ant")):
                info = tarfile.TarInfo(f"1.{suffix}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        source, words = f"wds:{tmp_path / 'a.tar'}", r"extensions \.txt .*--data\.label-key"
    else:
        pa = pytest.importorskip("pyarrow")
        columns = {"image": [content], "species": ["ant"]}
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.table(columns), tmp_path / "a.parquet"
        )
        source, words = str(tmp_path / "a.parquet"), "columns species .*--data.label-key"
    records = open_records(source, ImageOptions())
    assert records.labels is None
    assert re.search(f"no labels: the {words}", records.notes[0])
    if kind != "list":  # the option that the note gives works
        key = {"tar": "txt", "parquet": "species"}[kind]
        assert open_records(source, ImageOptions(label_key=key)).classes == ("ant",)


# ------------------------------------------------------------------------------ files not read


@pytest.fixture
def phone(tmp_path):
    """Ten images that are read, sixty that are not, and the folders that a network drive adds."""
    root = dirty_images.fill(tmp_path / "phone", *(f"{'ab'[i % 2]}/{i}.png" for i in range(10)))
    for number in range(40):
        (root / "a" / f"{number}.HEIC").write_bytes(b"heic")
    for number in range(20):
        (root / "b" / f"{number}.dng").write_bytes(b"raw")
    (root / "labels.csv").write_text("path,label\n")
    return dirty_images.fill(root, "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "#recycle/2.png")


@pytest.mark.skipif(walk.HEIF_SUFFIXES[0] in decode.SUFFIXES, reason="pillow-heif is installed")
def test_files_that_are_not_read_are_counted_by_suffix(phone, tmp_path, capsys):
    assert cli.main(["data", "check", str(phone), "--json", str(tmp_path / "x.json")]) == 0
    shown = capsys.readouterr().out
    assert "10 images, 10 kept, 0 excluded" in shown
    assert (
        "not read          61  40 .heic (`pip install pillow-heif` reads them), 20 .dng, 1 .csv"
        in (shown)
    )
    assert f"60 of 70 files of {phone} are not read: 40 .heic" in shown
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["not_read"] == {".heic": 40, ".dng": 20, ".csv": 1}
    assert "60 of 70 files" in load_source(str(phone)).notes[0]
    for path in [*phone.rglob("*.png")]:
        if "@eaDir" not in str(path) and "#recycle" not in str(path):
            path.unlink()
    with pytest.raises(UserError, match=r"contains no images .*, only 40 \.heic .*, 20 \.dng"):
        open_folder(phone)


def test_thumbnails_and_deleted_images_are_not_read(phone):
    assert all("@" not in name and "#" not in name for name in open_folder(phone).names)


@pytest.mark.parametrize(
    ("suffix", "head", "body"),
    [
        ("ppm", b"P6 3 2 255\n", bytes(range(18))),
        ("pgm", b"P5 3 2 255\n", bytes(range(6))),
        ("pgm", b"P2 3 2 255\n", b"0 1 2 3 4 5\n"),
        ("pnm", b"P6 3 2 255\n", bytes(range(18))),
    ],
)
def test_portable_maps_are_read(tmp_path, suffix, head, body):
    (tmp_path / f"a.{suffix}").write_bytes(head + body)
    records = open_folder(tmp_path)
    pixels = decode.decode(records.read(0), 3)
    values = np.arange(18) if head.startswith(b"P6") else np.repeat(np.arange(6), 3)
    np.testing.assert_array_equal(pixels, values.reshape(2, 3, 3))


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    array = dirty_images.pixels(1)
    heif.from_pillow(PIL.Image.fromarray(array)).save(str(tmp_path / "a.heic"), quality=100)
    records = open_folder(tmp_path)
    difference = np.abs(decode.decode(records.read(0), 3).astype(int) - array)
    assert difference.mean() < 8  # its chroma has half the resolution; another image: 80


# -------------------------------------------------------------------------- blank, nearly black


def test_blank_images_are_counted_and_named(tmp_path, capsys):
    root = dirty_images.fill(tmp_path / "set", "1.png", "2.png")
    (root / "3.png").write_bytes(solid_images.png(np.full((40, 40, 3), (9, 80, 7), np.uint8)))
    note = "1 of 3 images are blank, one value: 3.png"
    assert load_source(str(root)).notes == (note,)
    assert load_source(str(root)).notes == (note,)  # from the cache
    assert cli.main(["data", "check", str(root)]) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(("bits", "high", "levels"), [(12, 16, 17), (10, 4, 5), (16, 255, 256)])
def test_the_range_of_sixteen_bit_files_is_reported(tmp_path, capsys, bits, high, levels):
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    for name in "ab":
        PIL.Image.fromarray(ramp).save(tmp_path / f"{name}.png")
        ramp = ramp[::-1]
    assert cli.main(["data", "check", str(tmp_path), "--channels", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"levels    0 to {high} of 255, {levels} distinct per image (median)" in shown
    words = f"2 16-bit images use the levels 0 to {high} of 255, at most {levels} of them"
    assert (words in shown) == (bits < 16)
    assert (f"have {bits} bits; multiply them by {2 ** (16 - bits)}" in shown) == (bits < 16)


@pytest.mark.skipif(walk.HEIF_SUFFIXES[0] in decode.SUFFIXES, reason="pillow-heif is installed")
def test_a_run_first_reports_the_files_that_it_does_not_read(phone, capsys):
    source = load_source(str(phone))
    parts = types.SimpleNamespace(
        config=recipes.load("debug"),
        mesh=process.make_mesh(1),
        train=source,
        validation=source.take(np.arange(3)),
        input_reason="resident: small",
        meta={},
    )
    evaluation = types.SimpleNamespace(evaluator=types.SimpleNamespace(labelled=True))
    announce(Run(phone, parts, state=None, step=1), evaluation, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note ")]
    assert len(lines) == 1  # one note for both splits
    assert f"60 of 70 files of {phone} are not read: 40 .heic" in lines[0]
