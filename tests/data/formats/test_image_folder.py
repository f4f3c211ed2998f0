"""Folders, labels and lists."""

import collections
import os

import numpy as np
import pytest

from cssl_jax.cli import main as cli
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning import check, splits
from cssl_jax.data.cleaning.scan import scan
from cssl_jax.data.formats.image_folder import open_folder, open_list
from cssl_jax.errors import UserError
from helpers import dirty_images


def test_every_sub_folder_is_a_class_at_any_depth(tmp_path):
    root = dirty_images.fill(tmp_path, "b/1.png", "a/x/y/2.PNG", "a/3.png", "c.d/4.png")
    records = open_folder(root)
    assert records.names == ("a/3.png", "a/x/y/2.PNG", "b/1.png", "c.d/4.png")
    assert records.classes == ("a", "b", "c.d")
    np.testing.assert_array_equal(records.labels, [0, 0, 1, 2])
    assert records.read(2) == (root / "b" / "1.png").read_bytes()


@pytest.mark.parametrize(
    "names", [("1.png", "2.png"), ("a/1.png", "a/2.png"), ("a/1.png", "2.png")]
)
def test_other_folders_have_no_labels_and_the_option_folder_is_refused(tmp_path, names):
    root = dirty_images.fill(tmp_path, *names)
    assert open_folder(root).labels is None
    with pytest.raises(UserError, match="two or more sub-folders"):
        open_folder(root, "folder")


@pytest.mark.parametrize("names", [("train/a/1.png", "val/a/2.png"), ("Test/1.png", "train/2.png")])
def test_splits_of_a_set_are_not_taken_for_classes(tmp_path, names):
    root = dirty_images.fill(tmp_path, *names)
    for labels in ("auto", "folder"):
        with pytest.raises(UserError, match=r"are not classes; give one of them, .*/[Tt]"):
            open_folder(root, labels)
    assert len(open_folder(root, "none").names) == 2
    dirty_images.fill(tmp_path, "cat/3.png")  # next to a class, train and test are classes too
    assert len(open_folder(root).classes) == 3


def test_labels_can_be_ignored(tmp_path):
    root = dirty_images.fill(tmp_path, "a/1.png", "b/2.png")
    assert open_folder(root, "none").labels is None
    assert open_folder(root, "none").classes == ()


def table(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("text", [
    "path,label\na.png,dog\nd/b.png,cat\n",
    "\ufefffile;class\nd/b.png;cat\na.png;dog\n",
    "label\tfilename\ndog\ta.png\ncat\td/b.png\n",
])  # fmt: skip
def test_images_that_a_label_table_does_not_list_have_no_label(tmp_path, text):
    root = dirty_images.fill(tmp_path / "images", "a.png", "c.png", "d/b.png")
    records = open_folder(root, table(tmp_path / "labels.csv", text))
    assert records.classes == ("cat", "dog")
    np.testing.assert_array_equal(records.labels, [1, -1, 0])


@pytest.mark.parametrize("header", [
    "path,label", "file_name,label", "image,target", "filepath,category", "Filename,Class_Name",
    "name,labels", "Path,ClassId", "img_path,category_id",
])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_usual_columns_and_encodings_are_understood(tmp_path, header, encoding):
    root = dirty_images.fill(tmp_path / "images", "a.png", "c.png", "d/b.png")
    path = tmp_path / "labels.csv"
    rows = f"{header}\r\na.png,dog\r\n{root / 'd' / 'b.png'},cat\r\n"
    path.write_bytes(rows.encode(encoding))
    records = open_folder(root, str(path))
    assert records.classes == ("cat", "dog")
    np.testing.assert_array_equal(records.labels, [1, -1, 0])


def test_a_second_column_names_the_numbers_of_the_first(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png", "c.png")
    text = "path,label,class_name\na.png,2,dog\nb.png,0,cat\nc.png,2,{}\n"
    path = table(tmp_path / "l.csv", text.format("dog"))
    assert open_folder(root, path).classes == ("cat", "1", "dog")
    path = table(
        tmp_path / "l.csv", text.format("eel")
    )  # two names for one label: not a column of names
    assert open_folder(root, path).classes == ("0", "1", "2")


@pytest.mark.parametrize("header", ["path,cat,dog", "path,species", "path"])
def test_a_labels_file_without_a_label_is_refused_with_its_columns(tmp_path, header, capsys):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png")
    rows = "\n".join(
        [header, *(",".join([f"{n}.png", *"10"][: header.count(",") + 1]) for n in "ab")]
    )
    path = table(tmp_path / "labels.csv", rows)
    names = ", ".join(repr(name) for name in header.split(","))
    with pytest.raises(UserError, match=f"has the columns {names}, none of which is the label"):
        open_folder(root, path)
    assert cli.main(["data", "check", str(root), "--labels", path]) == 2
    assert "(label, class, category, target," in " ".join(capsys.readouterr().err.split())


def test_labels_that_are_whole_numbers_keep_them(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png")
    records = open_folder(root, table(tmp_path / "l.csv", "path,label\na.png,10\nb.png,2\n"))
    np.testing.assert_array_equal(records.labels, [10, 2])
    assert len(records.classes) == 11


def test_minus_one_is_no_label(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png", "c.png")
    text = "path,label\na.png,-1\nb.png,10\nc.png,9\n"
    np.testing.assert_array_equal(
        open_folder(root, table(tmp_path / "l.csv", text)).labels, [-1, 10, 9]
    )


def test_labels_are_names_if_one_is_not_a_number(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png")
    records = open_folder(root, table(tmp_path / "l.csv", "path,label\na.png,747\nb.png,a320\n"))
    assert records.classes == ("747", "a320")


def test_names_in_no_encoding_are_read_labelled_split_and_written(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a.png", "b.png", "c.png", "d.png")
    old = os.fsencode(root) + b"/caf\xe9.png"  # Latin-1, as old archives have it
    os.rename(root / "d.png", old)
    labels = tmp_path / "labels.csv"
    labels.write_bytes(b"path,label\ncaf\xe9.png,1\na.png,0\n")
    options = ImageOptions(labels=str(labels))
    np.testing.assert_array_equal(open_folder(root, str(labels)).labels, [0, -1, -1, 1])
    written = splits.split_source(
        str(root), tmp_path / "lists", options, fractions=(1.0, 0.0, 0.0), seed=0
    )
    assert [count for _, count in written] == [4]
    records = open_list(written[0][0])
    with open(old, "rb") as file:
        assert file.read() in [records.read(i) for i in range(4)]


@pytest.mark.parametrize(("text", "message"), [
    ("path,label\na.png,4294967296\n", r"labels\.csv: label 4294967296 is not a class number"),
    ('path,label\na.png,"' + "x" * 2**18, r"labels\.csv, line 1: .*check for an unclosed quote"),
    ("path,label\nb.png,1\n", r"lists b\.png, which .* does not contain"),
    ("path,label\na.png,1\na.png,2\n", "twice with different labels"),
    ("picture,label\na.png,1\n", "the first line of the file must be path,label"),
    ("path,label\n", "lists no images"),
])  # fmt: skip
def test_tables_that_do_not_fit_are_refused(tmp_path, text, message):
    root = dirty_images.fill(tmp_path / "images", "a.png")
    with pytest.raises(UserError, match=message):
        open_folder(root, table(tmp_path / "labels.csv", text))


def test_links_are_followed_and_loops_are_not(tmp_path):
    root = dirty_images.fill(tmp_path / "images", "a/1.png")
    dirty_images.fill(tmp_path / "elsewhere", "2.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "nowhere.png").symlink_to(tmp_path / "missing.png")
    names = set(open_folder(root).names)
    assert {"a/1.png", "b/2.png"} <= names
    assert not any("nowhere" in name for name in names)
    assert len(names) < 10


def test_a_stamp_changes_with_its_file(tmp_path):
    root = dirty_images.fill(tmp_path, "1.png", "2.png")
    before = open_folder(root).stamps
    (root / "1.png").write_bytes(b"other")
    after = open_folder(root).stamps
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_missing_folder_and_one_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        open_folder(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="contains no images"):
        open_folder(tmp_path)


# ------------------------------------------------------------------------------------------- lists

NAMES = [f"{'abc'[i % 3]}/{i}.png" for i in range(300)]
LABELS = np.array([i % 3 for i in range(300)])


def parts(names=NAMES, labels=LABELS, groups=(), fractions=(0.8, 0.1, 0.1), seed=0):
    split = splits.split(names, labels, groups, fractions=fractions, seed=seed)
    return [{names[i] for i in part} for part in split]


def test_a_split_is_a_partition_with_the_fractions_of_every_class():
    train, validation, test = parts()
    assert train | validation | test == set(NAMES)
    assert len(train) + len(validation) + len(test) == 300
    for part, expected in ((train, 80), (validation, 10), (test, 10)):
        counts = collections.Counter(name[0] for name in part)
        assert all(abs(counts[c] - expected) <= 1 for c in "abc")


def test_the_split_depends_on_names_and_seed_alone():
    order = np.random.default_rng(0).permutation(300)
    shuffled = parts([NAMES[i] for i in order], LABELS[order])
    assert shuffled == parts()
    assert parts(seed=1) != parts()


def test_new_images_move_few_of_the_others():
    more = parts([*NAMES, "a/new.png", "b/new.png"], np.append(LABELS, [0, 1]))
    moved = sum(len(old - new) for old, new in zip(parts(), more, strict=True))
    assert moved <= 30


def test_near_duplicates_stay_on_one_side():
    rng = np.random.default_rng(0)
    groups = [tuple(sorted(g)) for g in rng.permutation(300)[:90].reshape(30, 3).tolist()]
    split = parts(groups=groups)
    for group in groups:
        assert sum(bool({NAMES[i] for i in group} & part) for part in split) == 1
    assert abs(len(split[0]) - 240) <= 9  # within one group of the fraction of every class


def test_a_split_of_fraction_zero_is_empty():
    assert [len(part) for part in parts(fractions=(0.9, 0.1, 0.0))] == [270, 30, 0]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.2, 0.0)])
def test_fractions_that_do_not_sum_to_one_are_refused(fractions):
    with pytest.raises(UserError, match="sum to 1"):
        parts(fractions=fractions)


def test_written_lists_open_as_sources_with_the_same_labels(tmp_path):
    root = dirty_images.fill(
        tmp_path / "my images", *(f"{c}/{i}, {c}.png" for c in "abc" for i in range(8))
    )
    written = splits.split_source(
        str(root), tmp_path / "lists", ImageOptions(), fractions=(0.5, 0.5, 0.0), seed=0
    )
    assert [(path.name, count) for path, count in written] == [
        ("train.csv", 12),
        ("validation.csv", 12),
    ]
    whole = open_folder(root)
    label_of = dict(zip(whole.names, whole.labels, strict=True))
    seen = set()
    for path, count in written:
        records = open_list(path)
        assert records.classes == whole.classes
        assert len(records.names) == count
        for i, name in enumerate(records.names):
            place = (path.parent / name).resolve().relative_to(root.resolve()).as_posix()
            assert records.labels[i] == label_of[place]
            assert records.read(i) == (root / place).read_bytes()
            seen.add(place)
    assert seen == set(whole.names)
    (root / "a" / "0, a.png").unlink()
    with pytest.raises(UserError, match=r"which .*lists does not contain"):
        [open_list(path) for path, _ in written]


def test_no_list_of_an_earlier_split_is_left(tmp_path):
    root = dirty_images.fill(tmp_path / "images", *(f"{i}.png" for i in range(20)))

    def split(*fractions):
        written = splits.split_source(
            str(root), tmp_path / "lists", ImageOptions(), fractions=fractions, seed=0
        )
        assert {path.name for path, _ in written} == set(os.listdir(tmp_path / "lists"))
        return [path.stem for path, _ in written]

    assert split(0.5, 0.25, 0.25) == ["train", "validation", "test"]
    assert split(0.5, 0.5, 0.0) == ["train", "validation"]


# ------------------------------------------------------------------------------------------- check


def test_the_report_counts_what_is_there(tmp_path):
    good, bad = dirty_images.make(tmp_path)
    (tmp_path / "webp" / "same.png").write_bytes(good["png/colour.png"])
    near = dirty_images.encode(dirty_images.pixels(15), "JPEG", quality=80)
    (tmp_path / "jpeg" / "near.jpg").write_bytes(near)
    records, index, groups = check.scan_source(str(tmp_path), ImageOptions())
    summary = check.summarize(records, index, groups)
    assert summary["pictures"] == len(good) + len(bad) + 2
    assert summary["kept"] == len(good) + 1
    assert summary["left_out"]["truncated"] == [
        n for n, r in sorted(bad.items()) if r == "truncated"
    ]
    assert summary["sides"] == {"short": [40, 40, 40], "long": [56, 56, 56]}
    assert summary["classes"]["exif"] == 9
    assert summary["duplicates_with_other_labels"] == ["webp/colour.jpg", "webp/same.png"]
    assert ["jpeg/near.jpg", "webp/lossless.webp"] in summary["near_duplicates"]
    assert summary["near_duplicates_across_classes"] >= 1
    text = check.report(records, index, groups)
    for words in ("6  png/cut.bmp", "jpeg/near.jpg, webp/lossless.webp", "short side 40 to 40 px"):
        assert words in text
    assert max(map(len, text.splitlines())) < 200


def test_the_report_of_a_flat_folder_says_that_nothing_is_labelled(tmp_path):
    dirty_images.fill(tmp_path, "1.png", "2.png")
    records = open_folder(tmp_path)
    index = scan(records, channels=3, min_side=8, max_pixels=10**8)
    text = check.report(records, index, [])
    assert "labels    none" in text
    assert "excluded" in text
