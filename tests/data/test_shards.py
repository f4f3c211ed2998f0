"""Pictures in TFDS sets, tar shards and parquet files, behind the contract of folders."""

import concurrent.futures
import functools
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import salted

from cssl_jax.data import parquet_records, tfrecord
from cssl_jax.data.loading import load_source
from cssl_jax.data.options import PictureOptions
from cssl_jax.data.parquet_records import open_parquet
from cssl_jax.data.picture_source import PictureSource
from cssl_jax.data.tar_records import open_tar
from cssl_jax.data.tfds_records import open_tfds
from cssl_jax.errors import UserError

COUNT = 12
FILES = [salted.encode(salted.pixels(i, 20 + i, 30), "JPEG") for i in range(COUNT)]
LABELS = [i % 3 for i in range(COUNT)]
CLASSES = ("bird", "cat", "dog")


def assert_holds_all(records, classes=CLASSES):
    assert len(records.names) == len(set(records.names)) == len(records.stamps) == COUNT
    numbers = list(range(COUNT)) * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(records.read, numbers))
    assert contents == [FILES[i] for i in numbers]
    assert records.labels.dtype == np.int64
    np.testing.assert_array_equal(records.labels, LABELS)
    assert records.classes == classes


# -------------------------------------------------------------------------------------------- TFDS


@functools.cache  # TFDS takes a name once
def builder_class():
    import tensorflow_datasets as tfds

    class Pets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, content in enumerate(FILES):
                yield i, {"image": io.BytesIO(content), "label": LABELS[i]}

    return Pets


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared(request, tmp_path_factory):
    """A set of our own, prepared by TFDS on the spot: (file format, folder)."""
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp(request.param)
    builder = builder_class()(data_dir=root, file_format=request.param)
    builder.download_and_prepare()
    return request.param, builder.data_path


def test_a_prepared_set_gives_the_bytes_that_went_in(prepared):
    _, folder = prepared
    records = open_tfds(str(folder))
    # TFDS shuffles when it prepares; the pictures themselves say which is which.
    order = [FILES.index(records.read(i)) for i in range(COUNT)]
    assert sorted(order) == list(range(COUNT))
    np.testing.assert_array_equal(records.labels, [LABELS[i] for i in order])
    assert records.classes == CLASSES
    some = open_tfds(f"{folder}@train[3:7]")
    assert [some.read(i) for i in range(4)] == [records.read(i) for i in range(3, 7)]
    np.testing.assert_array_equal(some.labels, records.labels[3:7])


def test_a_prepared_folder_is_a_source(prepared):
    _, folder = prepared
    for spec in (str(folder), f"tfds:{folder}@train"):
        source = load_source(spec)
        assert isinstance(source, PictureSource)
        assert sorted(source.sizes[:, 0]) == list(range(20, 20 + COUNT))


def test_reading_needs_no_tensorflow(prepared):
    _, folder = prepared
    code = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] == "tensorflow" else find(name, *rest)
)
from cssl_jax.data.tfds_records import open_tfds
records = open_tfds({str(folder)!r})
print(len({{records.read(i) for i in range(len(records.names))}}), sum(records.labels))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(COUNT), str(sum(LABELS))]


def test_mock_data_of_a_known_set_opens_by_name():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=7):
        source = load_source("tfds:cifar10@test", PictureOptions(max_rejected=1.0))
    assert len(source) <= 7
    assert 0 < source.num_classes <= 10
    assert source.image(0).shape == (32, 32, 3)


def test_sets_that_are_unknown_or_not_prepared_are_refused_with_the_way_out(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="cannot be opened"):
        open_tfds("cifar11")
    with pytest.raises(UserError, match="tfds build cifar10 --file_format=array_record"):
        open_tfds("cifar10@train")


def test_the_offsets_of_a_record_file_are_cached_and_damage_is_named(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in FILES:
            writer.write(content)
    index = tfrecord.offsets(path)
    assert [tfrecord.read(path, *place) for place in index] == FILES
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))  # the same size and time: the index is not read again
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert tfrecord.offsets(path) == index
    for name, damaged, message in (
        ("cut.tfrecord", content[:-20], "is cut short"),
        ("text.tfrecord", b"no records at all, only text", "no TFRecord file"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            tfrecord.offsets(tmp_path / name)


# --------------------------------------------------------------------------------------------- tar


def shard(path, numbers, label="cls", extras=()):
    def add(name, content):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

    with tarfile.open(path, "w") as tar:
        for i in numbers:
            add(f"d/{i:03}.jpg", FILES[i])
            if label == "cls":
                add(f"d/{i:03}.cls", str(LABELS[i]).encode())
            elif label == "json":
                add(f"d/{i:03}.json", json.dumps({"kind": CLASSES[LABELS[i]]}).encode())
        for name, content in extras:
            add(name, content)
    return path


def test_tar_shards_by_folder_pattern_range_and_file(tmp_path):
    shard(tmp_path / "s-000.tar", range(5), extras=[("alone.cls", b"1"), ("d/.hidden", b"")])
    shard(tmp_path / "s-001.tar", range(5, COUNT))
    for spec in (tmp_path, tmp_path / "s-*.tar", tmp_path / "s-{000..001}.tar"):
        records = open_tar(str(spec))
        assert_holds_all(records, ("0", "1", "2"))
        assert records.skipped == 1
    assert records.names[0] == "s-000.tar:d/000"
    assert len(open_tar(str(tmp_path / "s-001.tar")).names) == 7
    assert len(load_source(f"wds:{tmp_path}")) == COUNT


def test_labels_from_json_and_none(tmp_path):
    path = shard(tmp_path / "a.tar", range(COUNT), "json")
    assert_holds_all(open_tar(str(path), label_key="kind"))
    bare = open_tar(str(shard(tmp_path / "b.tar", range(3), "")))
    assert bare.labels is None


def test_a_shard_is_indexed_once(tmp_path):
    path = shard(tmp_path / "a.tar", range(COUNT))
    places = open_tar(str(path)).places
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_tar(str(path)).places == places


def test_shards_that_cannot_be_read_are_named(tmp_path):
    path = shard(tmp_path / "a.tar", range(COUNT))
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.tar is (cut short|no readable tar)"):
        open_tar(str(tmp_path / "cut.tar"))
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz") as tar:
        tar.add(path, "a.tar")
    with pytest.raises(UserError, match="gunzip"):
        open_tar(str(tmp_path / "z.tar.gz"))
    with pytest.raises(UserError, match="does not exist; 1 are missing"):
        open_tar(str(tmp_path / "{0..0}.tar"))
    with pytest.raises(UserError, match="matches no file"):
        open_tar(str(tmp_path / "none-*.tar"))
    with pytest.raises(UserError, match="holds no pictures"):
        open_tar(str(shard(tmp_path / "text.tar", (), extras=[("a.txt", b"text")])))


# ----------------------------------------------------------------------------------------- parquet


def table(numbers=range(COUNT), labels="names", image="image"):
    pa = pytest.importorskip("pyarrow")
    pictures = [FILES[i] for i in numbers]
    structs = [{"bytes": content, "path": None} for content in pictures]
    columns = {
        "id": pa.array(list(numbers)),
        image: pa.array(pictures if labels == "text" else structs),
        "label": pa.array([CLASSES[LABELS[i]] if labels == "text" else LABELS[i] for i in numbers]),
    }
    made = pa.table(columns)
    if labels == "names":
        features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
        content = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": content})
    return made


def write(path, made, **options):
    import pyarrow.parquet

    pyarrow.parquet.write_table(made, path, **options)
    return path


@pytest.mark.parametrize("labels", ["names", "text"])
def test_parquet_with_structs_or_bytes_names_or_text(tmp_path, labels):
    path = write(tmp_path / "a.parquet", table(labels=labels), row_group_size=5)
    assert_holds_all(open_parquet(str(path)))
    assert len(load_source(str(path))) == COUNT


def test_several_parquet_files_and_integer_labels(tmp_path):
    write(tmp_path / "0.parquet", table(range(5), "numbers"), row_group_size=2)
    write(tmp_path / "1.parquet", table(range(5, COUNT), "numbers"))
    for spec in (tmp_path, tmp_path / "*.parquet"):
        assert_holds_all(open_parquet(str(spec)), ("0", "1", "2"))


def test_what_is_kept_of_row_groups_is_bounded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table(), row_group_size=1)
    monkeypatch.setattr(parquet_records, "CACHE", len(FILES[0]) * 3)
    records = open_parquet(str(path))
    assert_holds_all(records)
    assert (
        sum(len(f) for group in records.groups._kept.values() for f in group) <= len(FILES[0]) * 3
    )


def test_parquet_that_does_not_fit_is_refused_with_the_way_out(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table())
    with pytest.raises(UserError, match="no column 'picture'; there are id, image, label"):
        open_parquet(str(path), image_key="picture")
    with pytest.raises(UserError, match=r"no columns of pictures among id, label; .*image-key"):
        open_parquet(str(write(tmp_path / "b.parquet", table().drop_columns("image"))))
    with pytest.raises(UserError, match=r"matches no \.parquet file"):
        open_parquet(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="no readable parquet file"):
        open_parquet(str(tmp_path / "text.parquet"))
    monkeypatch.setattr(parquet_records, "LARGEST", 100)
    with pytest.raises(UserError, match="row_group_size=100"):
        open_parquet(str(path))
