"""TFDS sets, prepared by the test in every format, give back their images and labels."""

import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from cssl_jax.data.formats import tfrecord
from cssl_jax.data.formats.tfds import open_tfds, raise_file_limit
from cssl_jax.errors import MissingDataError, UserError

tfds = pytest.importorskip("tensorflow_datasets")
tf = pytest.importorskip("tensorflow")  # writes the sets, and is an oracle for the framing

CLASSES = ["cat", "dog", "eel"]
FORMATS = ["array_record", "tfrecord", "parquet"]
COUNT = 23


def encoded(number, kind=None):
    pixels = np.random.default_rng(number).integers(0, 256, (9, 7 + number, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind or ("PNG" if number % 3 else "JPEG"))
    return file.getvalue()


def examples(numbers):
    for number in numbers:
        yield (
            f"key{number}",
            {
                "image": encoded(number),
                "mask": encoded(100 + number, "PNG"),
                "label": number % 3,
                "word": f"w{number}",
                "pixels": np.full((4, 5, 3), number, np.uint8),
                "depth": np.full((2, 2, 1), number, np.float32),
                "raw": encoded(200 + number),
                "box": [number, number],
            },
        )


FEATURES = {
    "image": lambda: tfds.features.Image(),
    "mask": lambda: tfds.features.Image(),
    "label": lambda: tfds.features.ClassLabel(names=CLASSES),
    "word": lambda: tfds.features.Text(),
    "pixels": lambda: tfds.features.Tensor(shape=(4, None, 3), dtype=np.uint8),
    "depth": lambda: tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
    "raw": lambda: tfds.features.Tensor(shape=(), dtype=np.object_),
    "box": lambda: tfds.features.Sequence(tfds.features.Scalar(np.int64)),
}


def prepare(root, kind, splits, name="tiny", features=tuple(FEATURES), shards=3):
    """A set as TFDS writes it; returns its folder."""
    wanted = {
        split: [(key, {k: v for k, v in example.items() if k in features}) for key, example in rows]
        for split, rows in splits.items()
    }
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name,
        "1.0.0",
        tfds.features.FeaturesDict({key: FEATURES[key]() for key in features}),
        wanted,
        data_dir=root,
        file_format=kind,
        download_config=tfds.download.DownloadConfig(num_shards=shards),
    )
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """{format: folder} of the same set in every format."""
    root = tmp_path_factory.mktemp("tfds")
    return {
        kind: prepare(
            root / kind,
            kind,
            {"train": list(examples(range(COUNT))), "test": list(examples(range(50, 54)))},
        )
        for kind in FORMATS
    }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy(prepared, tmp_path, cache):
    """Function that copies a prepared set, for tests that damage it."""

    def make(kind):
        return pathlib.Path(shutil.copytree(prepared[kind], tmp_path / "copy" / "tiny" / "1.0.0"))

    return make


def content(records):
    """{encoded image: label}, independent of the order."""
    return {records.read(i): int(records.labels[i]) for i in range(len(records.names))}


def expected(numbers):
    return {encoded(number): number % 3 for number in numbers}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_bytes_and_labels_that_went_in(prepared, kind):
    records = open_tfds(f"{prepared[kind]}@train")
    assert content(records) == expected(range(COUNT))
    assert records.classes == tuple(CLASSES)
    assert records.labels.dtype == np.int64
    assert len(set(records.names)) == len(records.stamps) == COUNT
    assert {name.partition(":")[0] for name in records.names} == {
        f"tiny-train.{kind}-{shard:05}-of-00003" for shard in range(3)
    }
    assert content(open_tfds(f"{prepared[kind]}@test")) == expected(range(50, 54))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_order_is_that_of_tfds(prepared, kind):
    """tf.data gives the order for TFRecord and parquet, as_data_source for ArrayRecord."""
    builder = tfds.builder_from_directory(prepared[kind])
    if kind == "array_record":
        source = builder.as_data_source("train")
    else:
        config = tfds.ReadConfig(interleave_cycle_length=1)
        source = tfds.as_numpy(builder.as_dataset(split="train", read_config=config))
    words = [example["word"].decode() for example in source]
    records = open_tfds(str(prepared[kind]))
    assert [records.read(i) for i in range(COUNT)] == [encoded(int(word[1:])) for word in words]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("split", ["train[:40%]", "train[5:17]", "train[-3:]+test", "all"])
def test_a_slice_has_the_examples_that_tfds_gives(prepared, kind, split):
    info = tfds.builder_from_directory(prepared[kind]).info
    records = open_tfds(f"{prepared[kind]}@{split}")
    assert len(records.names) == info.splits[split].num_examples
    whole = open_tfds(f"{prepared[kind]}@all")
    place = {name: number for number, name in enumerate(whole.names)}
    for number, name in enumerate(records.names):
        assert records.read(number) == whole.read(place[name])
        assert records.labels[number] == whole.labels[place[name]]


def test_two_complementary_slices_make_up_the_split(prepared):
    for kind in FORMATS:
        low, high = (open_tfds(f"{prepared[kind]}@train[{s}]") for s in (":30%", "30%:"))
        assert content(low) | content(high) == expected(range(COUNT))
        assert len(low.names) + len(high.names) == COUNT


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("val", "Unknown split 'val'.*give train or test"),
        ("train[", "parsing split"),
        ("train[:0%]", "has no examples"),
        ("train[4:2]", "has no examples"),
        ("train+train[:2]", "contains some examples twice"),
        ("train[:99]", "incompatible with 23 examples"),
    ],
)
def test_an_invalid_split_is_refused(prepared, split, message):
    with pytest.raises(UserError, match=message):
        open_tfds(f"{prepared['tfrecord']}@{split}")


def test_a_set_is_found_by_its_name(prepared, monkeypatch):
    for kind in FORMATS:
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[kind].parents[1]))
        for name in ("tiny", "tiny:1.0.0", "tiny:1.*.*"):
            assert content(open_tfds(f"{name}@test")) == expected(range(50, 54))


def test_a_folder_may_have_an_at_in_its_name(prepared, tmp_path):
    place = tmp_path / "a@b" / "1.0.0"
    shutil.copytree(prepared["tfrecord"], place)
    assert len(open_tfds(str(place)).names) == COUNT
    assert len(open_tfds(f"{place}@test").names) == 4
    place = shutil.copytree(place, tmp_path / "c@d")
    assert len(open_tfds(str(place)).names) == COUNT
    assert len(open_tfds(f"{place}@test").names) == 4


def test_mock_data_of_tfds_is_read_as_if_it_were_prepared():
    with tfds.testing.mock_data(num_examples=5):
        records = open_tfds("mnist@test")
        source = tfds.data_source("mnist", split="test", decoders={"image": None})
        assert len(records.names) == len(set(records.names)) == 5
        assert records.classes == tuple("0123456789")
        for number in range(5):
            example = source[number]
            pixels = np.asarray(PIL.Image.open(io.BytesIO(records.read(number))))
            decoded = tf.io.decode_png(example["image"]).numpy()
            np.testing.assert_array_equal(pixels, decoded[..., 0])
            assert records.labels[number] == example["label"]


def test_features_are_chosen_by_their_keys(prepared):
    folder = str(prepared["tfrecord"])
    words = open_tfds(folder, label_key="word")
    assert words.classes == tuple(sorted(f"w{number}" for number in range(COUNT)))
    number = [int(words.classes[label][1:]) for label in words.labels]
    masks = open_tfds(folder, image_key="mask")
    raw = open_tfds(folder, image_key="raw")
    pixels = open_tfds(folder, image_key="pixels")
    for i in range(COUNT):
        assert words.read(i) == encoded(number[i])
        assert masks.read(i) == encoded(100 + number[i], "PNG")
        assert raw.read(i) == encoded(200 + number[i])
        array = np.asarray(PIL.Image.open(io.BytesIO(pixels.read(i))))
        np.testing.assert_array_equal(array, np.full((4, 5, 3), number[i]))
    # Another feature has other bytes, so that it needs other stamps.
    assert not set(masks.stamps) & set(words.stamps)


@pytest.mark.parametrize("key", ["depth", "word0", "label", "box"])
def test_a_feature_that_is_not_an_image_is_refused(prepared, key):
    with pytest.raises(UserError, match=r"--data\.image-key"):
        open_tfds(str(prepared["tfrecord"]), image_key=key)


def test_a_set_with_several_image_features_or_none_asks_for_a_key(tmp_path, cache):
    rows = {"train": list(examples(range(3)))}
    two = prepare(tmp_path, "tfrecord", rows, "two", ("mask", "depth"), 1)
    with pytest.raises(UserError, match=r"has the images .*depth.*--data\.image-key"):
        open_tfds(str(two))
    none = prepare(tmp_path, "tfrecord", rows, "none", ("word",), 1)
    with pytest.raises(UserError, match=r"has no Image, only word"):
        open_tfds(str(none))
    records = open_tfds(str(prepare(tmp_path, "tfrecord", rows, "plain", ("mask",), 1)))
    assert records.labels is None
    assert records.classes == ()
    assert len(records.names) == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_many_threads_read_the_same_as_one(prepared, kind):
    records = open_tfds(str(prepared[kind]))
    one = [records.read(i) for i in range(COUNT)]
    order = np.random.default_rng(0).integers(0, COUNT, 600).tolist()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(records.read, order)) == [one[i] for i in order]


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist", r"not prepared in .*download_and_prepare\(file_format='array_record'\)"),
        ("mnist@test", "builder\\('mnist', data_dir='.*/home'"),
        ("mnist:9.9.9", "cannot be loaded at version"),
        ("mnist/odd", "BuilderConfig odd not found"),
        ("nosuchset", r"not in .*/home: Dataset nosuchset not found.*TFDS_DATA_DIR"),
        ("kaggle:some_set", "is not a data set; give NAME"),
        ("gs://bucket/tiny/1.0.0@train", "not on this machine"),
        ("/no/such/folder", "not a prepared TFDS set"),
    ],
)
def test_a_missing_set_is_named_with_the_way_to_get_it(tmp_path, monkeypatch, spec, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    with pytest.raises(UserError, match=message) as caught:
        open_tfds(spec)
    assert isinstance(caught.value, MissingDataError) == (spec in ("mnist", "mnist@test"))


def test_a_format_without_random_access_is_refused_with_the_way_to_prepare_it_again(copy):
    folder = copy("tfrecord")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "riegeli"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"prepared as riegeli.*file_format='array_record'"):
        open_tfds(str(folder))


def test_of_several_formats_array_record_is_read(copy, prepared):
    folder = copy("tfrecord")
    for path in prepared["array_record"].glob("*array_record*"):
        shutil.copy(path, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["alternativeFileFormats"] = ["array_record"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    records = open_tfds(str(folder))
    assert all("array_record" in name for name in records.names)
    assert content(records) == expected(range(COUNT))


def shard_of(folder):
    return sorted(folder.glob("tiny-train.*"))[1]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_or_shortened_shard_is_named(copy, kind):
    folder = copy(kind)
    path = shard_of(folder)
    whole = path.read_bytes()
    for size in (len(whole) // 2 + 100, 2**16):  # 2**16 is a whole block of ArrayRecord
        path.write_bytes(whole[: min(size, len(whole) - 50)])
        with pytest.raises(UserError, match=path.name):
            open_tfds(str(folder))
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        open_tfds(str(folder))


def test_a_tfrecord_shortened_between_records_or_damaged_is_named(copy):
    folder = copy("tfrecord")
    path = shard_of(folder)
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    path.write_bytes(whole[: 16 + length])
    with pytest.raises(UserError, match=f"{path.name} has 1 records, but dataset_info.json says"):
        open_tfds(str(folder))
    path.write_bytes(whole[: 16 + length + 5])
    with pytest.raises(UserError, match=f"{path.name} is (damaged|cut short)"):
        open_tfds(str(folder))
    flipped = bytearray(whole)
    flipped[16 + length] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(
        UserError, match=f"{path.name} is damaged.* record 1, at byte {16 + length}"
    ):
        open_tfds(str(folder))


@pytest.mark.parametrize("kind", ["tfrecord", "parquet"])  # ArrayRecord has checksums of its own
def test_a_shard_that_changes_after_opening_cannot_be_read(copy, kind):
    folder = copy(kind)
    records = open_tfds(str(folder))
    fresh = open_tfds(str(folder))  # its labels are from the cache, so that it has read no record
    path = shard_of(folder)
    number = next(i for i, name in enumerate(records.names) if name.startswith(path.name))
    os.utime(path, ns=(0, 0))
    with pytest.raises(OSError, match=f"{path.name} has changed"):
        fresh.read(number)


# --------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_and_offsets_come_from_the_cache_until_a_shard_changes(copy, kind):
    folder = copy(kind)
    first = open_tfds(str(folder))
    path = shard_of(folder)
    stat, whole = path.stat(), path.read_bytes()
    # Different bytes with the same size and time: reading them instead of the cache fails.
    footer = 4096 if kind == "parquet" else 0  # bytes of the parquet footer, which is always read
    path.write_bytes(b"\xff" * (len(whole) - footer) + whole[len(whole) - footer :])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = open_tfds(str(folder))
    assert again.names == first.names
    assert again.stamps == first.stamps
    np.testing.assert_array_equal(again.labels, first.labels)
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match=path.name):
        open_tfds(str(folder))
    path.write_bytes(whole)
    assert content(open_tfds(str(folder))) == content(first)


# ------------------------------------------------------------------------- without TensorFlow

WITHOUT = """
import resource, sys

class Without:
    "A module finder that does not find TensorFlow, as if it were not installed."

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return self.finder.find_spec(name, path, target)

if {hidden}:
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from cssl_jax.data.formats.tfds import open_tfds
import zlib
for folder in {folders}:
    records = open_tfds(folder)
    print(sorted(zlib.crc32(records.read(i)) for i in range(len(records.names))))
    print(sorted(records.labels.tolist()))
assert "tensorflow" not in sys.modules
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [True, False])
def test_reading_takes_no_tensorflow(prepared, tmp_path, hidden):
    code = WITHOUT.format(hidden=hidden, folders=[str(prepared[kind]) for kind in FORMATS])
    environment = {**os.environ, "CSSL_JAX_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, limit = map(json.loads, done.stdout.splitlines())
    checksums = sorted(zlib.crc32(encoded(n)) for n in range(COUNT))
    assert lines == [checksums, sorted(n % 3 for n in range(COUNT))] * 3
    assert (
        limit >= 259
    )  # the 3 shards that ArrayRecord keeps open, and 256 for the rest of the process


def test_more_shards_than_the_machine_allows_files_are_refused():
    with pytest.raises(UserError, match="999999999999 shards have to be open"):
        raise_file_limit(999_999_999_999)


# ------------------------------------------------------------------------------------- TFRecord


def test_the_framing_is_that_of_tensorflow(tmp_path):
    path = tmp_path / "some.tfrecord"
    contents = [bytes([n % 256]) * n for n in (0, 1, 5, 300, 70_000)]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item in contents:
            writer.write(item)
    assert tfrecord.record_lengths(path) == [len(item) for item in contents]
    (tmp_path / "none.tfrecord").write_bytes(b"")
    assert tfrecord.record_lengths(tmp_path / "none.tfrecord") == []


def test_every_cut_of_a_tfrecord_is_noticed(tmp_path):
    path = tmp_path / "some.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item in (b"abc", b"defgh"):
            writer.write(item)
    whole = path.read_bytes()
    for size in set(range(1, len(whole))) - {16 + 3}:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="is cut short within record"):
            tfrecord.record_lengths(path)


def test_the_checksum_is_crc32c():
    """Test vectors of RFC 3720, B.4, unmasked by the inverse of TensorFlow's mask."""
    for data, crc in [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]:
        rotated = (tfrecord.masked_crc32c(data) - 0xA282EAD8) % 2**32
        assert (rotated >> 17 | rotated << 15) % 2**32 == crc
