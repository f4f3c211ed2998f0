"""Images in TFDS sets, tar shards and parquet files, read by the interface of folders."""

import concurrent.futures
import functools
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.parquet import open_parquet
from cssl_jax.data.formats.tar import open_tar
from cssl_jax.data.formats.tfds import open_tfds
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.data.sources.open import load_source
from helpers import dirty_images

COUNT = 12
FILES = [dirty_images.encode(dirty_images.pixels(i, 20 + i, 30), "JPEG") for i in range(COUNT)]
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


@functools.cache  # TFDS allows every name only once
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
    """(file format, folder) of a set that TFDS prepares for the test."""
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp(request.param)
    builder = builder_class()(data_dir=root, file_format=request.param)
    builder.download_and_prepare()
    return request.param, builder.data_path


def test_a_prepared_set_gives_the_bytes_that_went_in(prepared):
    _, folder = prepared
    records = open_tfds(str(folder))
    # TFDS shuffles when it prepares, so that the images themselves give the order.
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
        assert isinstance(source, ImageSource)
        assert sorted(source.sizes[:, 0]) == list(range(20, 20 + COUNT))


@pytest.mark.slow
def test_reading_needs_no_tensorflow(prepared):
    _, folder = prepared
    code = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] == "tensorflow" else find(name, *rest)
)
from cssl_jax.data.formats.tfds import open_tfds
records = open_tfds({str(folder)!r})
print(len({{records.read(i) for i in range(len(records.names))}}), sum(records.labels))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(COUNT), str(sum(LABELS))]


def test_mock_data_of_a_known_set_opens_by_name():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=7):
        source = load_source("tfds:cifar10@test", ImageOptions(max_rejected=1.0))
    assert len(source) <= 7
    assert 0 < source.num_classes <= 10
    assert source.image(0).shape == (32, 32, 3)


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


# ----------------------------------------------------------------------------------------- parquet


def table(numbers=range(COUNT), labels="names", image="image"):
    pa = pytest.importorskip("pyarrow")
    contents = [FILES[i] for i in numbers]
    structs = [{"bytes": content, "path": None} for content in contents]
    columns = {
        "id": pa.array(list(numbers)),
        image: pa.array(contents if labels == "text" else structs),
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
