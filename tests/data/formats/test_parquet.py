"""Parquet files, written by pyarrow: columns, labels, row groups, and the bound on memory."""

import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from cssl_jax.data.formats import parquet as parquet_format
from cssl_jax.data.formats.parquet import BinaryColumn, open_parquet, read_metadata
from cssl_jax.data.formats.shards import find_shards
from cssl_jax.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(number):
    file = io.BytesIO()
    PIL.Image.new("RGB", (5 + number % 7, 4), (number, 2, 3)).save(file, "PNG")
    return file.getvalue()


def write(path, numbers, *, names=("cat", "dog", "eel"), group=4, compression="snappy"):
    """Writes images as Hugging Face does: struct<bytes, path>, int64 and metadata in the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "image": [{"bytes": png(n), "path": f"{n}.png"} for n in numbers],
            "label": [n % 3 for n in numbers],
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(names), "_type": "ClassLabel"},
    }
    content = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path, row_group_size=group, compression=compression)
    return path


def save(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def contents(records):
    return [records.read(i) for i in range(len(records.names))]


def test_a_folder_of_hugging_face_is_its_rows_in_order(tmp_path):
    write(tmp_path / "set" / "train-00001-of-00002.parquet", range(10, 20))
    path = write(tmp_path / "set" / "train-00000-of-00002.parquet", range(10))
    records = open_parquet(str(path.parent))
    assert contents(records) == [png(n) for n in range(20)]
    np.testing.assert_array_equal(records.labels, np.arange(20) % 3)
    assert records.labels.dtype == np.int64
    assert records.classes == ("cat", "dog", "eel")
    assert records.names[11] == "train-00001-of-00002.parquet:1"
    assert len(set(records.names)) == 20
    stat = path.stat()
    assert records.stamps[3] == f"{stat.st_size}-{stat.st_mtime_ns}-3-image.bytes"
    assert contents(open_parquet(str(path))) == [png(n) for n in range(10)]
    assert len(open_parquet(f"{path.parent}/train-*.parquet").names) == 20


def test_a_hub_folder_of_train_and_test_is_refused(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / f"{part}-00000-of-00001.parquet", range(3))
    with pytest.raises(UserError, match="contains files of test and train; choose one"):
        open_parquet(str(tmp_path))
    assert len(open_parquet(f"{tmp_path}/train-*").names) == 3


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("kind", ["binary", "large_binary"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_a_plain_column_of_bytes_is_read_however_it_is_stored(
    tmp_path, compression, kind, dictionary
):
    column = pa.array([png(n % 5) for n in range(30)], getattr(pa, kind)())
    path = save(
        tmp_path / "x.parquet",
        {"content": column},
        compression=compression,
        use_dictionary=dictionary,
        row_group_size=7,
    )
    records = open_parquet(path)
    assert contents(records) == [png(n % 5) for n in range(30)]
    assert records.labels is None
    assert records.classes == ()


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (["dog", "cat", None], [1, 0, -1], ("cat", "dog")),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), [1, 0, 1], ("cat", "dog")),
        ([2, None, 0], [2, -1, 0], ("0", "1", "2")),
        (pa.array([1, 0, 1], pa.uint8()), [1, 0, 1], ("0", "1")),
        ([-1, -1, -1], None, ()),
        ([0.5, 1.5, 2.5], None, ()),  # not classes, and no option names the column
    ],
)
def test_labels_are_numbers_or_names(tmp_path, labels, numbers, classes):
    path = save(tmp_path / "x.parquet", {"image": [png(n) for n in range(3)], "label": labels})
    records = open_parquet(path)
    assert records.classes == classes
    assert (None if records.labels is None else list(records.labels)) == numbers


def test_columns_are_chosen_by_their_keys(tmp_path):
    columns = {
        "front": [png(1), png(2)],
        "back": [png(3), png(4)],
        "kind": ["x", "y"],
        "score": [0.5, 0.25],
    }
    path = save(tmp_path / "x.parquet", columns)
    records = open_parquet(path, image_key="back", label_key="kind")
    assert contents(records) == [png(3), png(4)]
    assert records.classes == ("x", "y")
    assert not set(records.stamps) & set(open_parquet(path, image_key="front").stamps)
    with pytest.raises(UserError, match=r"has the images front, back; .*--data\.image-key"):
        open_parquet(path)
    with pytest.raises(UserError, match=r"has no 'side'; choose --data\.image-key from front, bac"):
        open_parquet(path, image_key="side")
    with pytest.raises(UserError, match=r"no column of images 'kind'"):
        open_parquet(path, image_key="kind")
    with pytest.raises(UserError, match=r"label 0.5 is neither .*--data\.label-key"):
        open_parquet(path, image_key="front", label_key="score")


def test_two_class_labels_ask_for_a_key(tmp_path):
    features = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in ("fine", "coarse")}
    table = pa.table({"img": [png(1)], "fine": [1], "coarse": [0]})
    content = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": content}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"labels fine, coarse; choose one by --data\.label-key"):
        open_parquet(str(tmp_path / "x.parquet"))
    records = open_parquet(str(tmp_path / "x.parquet"), label_key="fine")
    assert (list(records.labels), records.classes) == ([1], ("a", "b"))


def test_files_that_number_their_classes_differently_are_refused(tmp_path):
    write(tmp_path / "a.parquet", range(3))
    write(tmp_path / "b.parquet", range(3), names=("dog", "cat", "eel"))
    with pytest.raises(UserError, match=r"b\.parquet numbers the classes .*a\.parquet"):
        open_parquet(str(tmp_path))


def test_a_label_beyond_the_names_is_refused(tmp_path):
    write(tmp_path / "a.parquet", range(3), names=("cat", "dog"))
    with pytest.raises(UserError, match=r"column label: label 2 is not a class number"):
        open_parquet(str(tmp_path / "a.parquet"))


def test_damaged_metadata_of_hugging_face_is_ignored(tmp_path):
    table = pa.table({"image": [png(1)], "label": [4]})
    for content in ("{", "[]", '{"info": null}', '{"info": {"features": 3}}'):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": content}), tmp_path / "x.parquet"
        )
        assert open_parquet(str(tmp_path / "x.parquet")).classes == tuple("01234")


def test_opening_reads_no_images(tmp_path):
    path = write(tmp_path / "x.parquet", range(40), group=10, compression="none")
    whole = bytearray(path.read_bytes())
    for number in range(40):
        start = whole.index(png(number))
        whole[start : start + len(png(number))] = bytes(len(png(number)))
    path.write_bytes(whole)
    records = open_parquet(str(path))
    np.testing.assert_array_equal(records.labels, np.arange(40) % 3)


def test_a_row_without_bytes_cannot_be_read(tmp_path):
    rows = [{"bytes": None, "path": "far/away.png"}, None, {"bytes": png(2), "path": None}]
    records = open_parquet(save(tmp_path / "x.parquet", {"image": rows}))
    for row in (0, 1):
        with pytest.raises(OSError, match=r"no bytes in column image\.bytes"):
            records.read(row)
    assert records.read(2) == png(2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "has no column of images; .*from text"),
        ({"image": pa.array([], pa.binary())}, "has no rows"),
    ],
)
def test_a_file_without_images_is_refused(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        open_parquet(save(tmp_path / "x.parquet", columns))


def test_files_with_different_columns_are_refused(tmp_path):
    save(tmp_path / "a.parquet", {"image": [png(1)], "label": [1]})
    save(tmp_path / "b.parquet", {"picture": [png(1)], "label": [1]})
    with pytest.raises(UserError, match=r"b\.parquet has no column image; its columns are picture"):
        open_parquet(str(tmp_path))
    save(tmp_path / "b.parquet", {"image": [png(1)]})
    with pytest.raises(UserError, match=r"b\.parquet: column label cannot be read"):
        open_parquet(str(tmp_path))


def test_a_file_that_is_cut_short_damaged_or_changed_is_named(tmp_path):
    path = write(tmp_path / "x.parquet", range(40))
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"x\.parquet cannot be read as parquet"):
            open_parquet(str(path))
    path.write_bytes(whole)
    records = open_parquet(str(path))
    os.utime(path, ns=(0, 0))
    with pytest.raises(OSError, match=r"x\.parquet has changed"):
        records.read(0)
    path.write_bytes(b"\xff" * 300 + whole[300:])
    broken = counted(path, cache_bytes=2**20)
    with pytest.raises(OSError, match=r"x\.parquet: row group 0"):
        broken.read(0)
    with pytest.raises(OSError, match=r"x\.parquet: row group 0"):
        broken.read(1)  # a failed read does not block the group
    assert broken.read(39) == png(39)


# ------------------------------------------------------------------------------------- row groups


class Counted(BinaryColumn):
    """Records the row groups read from the disk, and counts the cached bytes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.loads = []

    def _load(self, group):
        self.loads.append(group)
        return super()._load(group)

    @property
    def cached_bytes(self):
        return sum(values.nbytes for values in self._cached.values())


def counted(path, cache_bytes):
    shards = find_shards(str(path), ".parquet")
    metadata = [read_metadata(shard.path) for shard in shards]
    return Counted(shards, metadata, "image.bytes", cache_bytes)


def test_cached_row_groups_are_not_read_again_and_the_oldest_is_dropped(tmp_path):
    path = write(tmp_path / "x.parquet", range(40), group=10)
    group_bytes = sum(len(png(n)) for n in range(10)) + 11 * 4
    column = counted(path, cache_bytes=int(2.5 * group_bytes))
    for row in (0, 9, 10, 5, 19, 20, 0, 10):
        assert column.read(row) == png(row)
        assert column.cached_bytes <= 2.5 * group_bytes
    assert column.loads == [0, 1, 2, 0, 1]
    tiny = counted(path, cache_bytes=1)  # the last group is cached, however large it is
    for row in (0, 1, 2, 30, 31, 0):
        assert tiny.read(row) == png(row)
    assert tiny.loads == [0, 3, 0]


@pytest.mark.parametrize("cache_bytes", [1, 3000, 2**28])
def test_many_threads_read_the_same_as_one(tmp_path, cache_bytes):
    for shard in range(3):
        write(tmp_path / f"{shard}.parquet", range(40 * shard, 40 * shard + 40), group=7)
    column = counted(tmp_path, cache_bytes)
    order = np.random.default_rng(0).integers(0, 120, 1500).tolist()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(column.read, order)) == [png(i) for i in order]
    if cache_bytes == 2**28:
        assert sorted(column.loads) == list(range(18))  # every group is read by one thread only


def test_a_row_group_that_is_too_large_is_refused_with_a_command_that_fixes_it(
    tmp_path, monkeypatch
):
    path = write(tmp_path / "x.parquet", range(250), group=250)
    size = sum(len(png(n)) for n in range(250))
    monkeypatch.setattr(parquet_format, "MAX_GROUP_BYTES", size // 2)
    with pytest.raises(UserError, match=r"row group of .* rewrite it") as caught:
        open_parquet(str(path))
    command = re.search(r"python -c .*", str(caught.value)).group()
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    assert read_metadata(path).num_row_groups == 3
    records = open_parquet(str(path))
    assert contents(records) == [png(n) for n in range(250)]
    assert records.classes == ("cat", "dog", "eel")  # from the metadata of the schema
