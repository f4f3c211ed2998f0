import numpy as np
import pytest
from sklearn.datasets import load_digits

from cssl_jax.data.formats.schema import number_labels
from cssl_jax.data.sources.base import channel_statistics, split
from cssl_jax.data.sources.open import absolute_spec, load_source
from cssl_jax.errors import MissingDataError, UserError


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_the_embedded_digits_are_those_of_scikit_learn():
    ours, theirs = load_source("digits"), load_digits()
    np.testing.assert_array_equal(ours.labels, theirs.target)
    assert ours.images.shape == (1797, 8, 8, 1)
    assert ours.images.dtype == np.uint8
    # 17 levels scaled to 256 grey values and rounded to the nearest.
    np.testing.assert_array_equal(ours.images[..., 0], np.floor(theirs.images * 255 / 16 + 0.5))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_arrays_of_any_channel_count(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, channels)).astype(np.uint8)
    source = load_source(save(tmp_path / "a.npz", images=images, labels=np.arange(5)))
    np.testing.assert_array_equal(source.images, images)
    assert source.images.shape[1:] == (6, 7, channels)
    assert source.channels == channels
    np.testing.assert_array_equal(source.sizes, [[6, 7]] * 5)
    assert source.num_classes == 5
    assert len(source) == 5


def test_grey_images_without_a_channel_axis_and_without_labels(tmp_path):
    source = load_source(save(tmp_path / "a.npz", images=np.zeros((3, 4, 4), np.uint8)))
    assert source.images.shape[1:] == (4, 4, 1)
    assert source.labels is None
    assert source.num_classes == 0


BAD = {
    "no array called images": ({"pictures": np.zeros((2, 4, 4, 1), np.uint8)}, "named 'images'"),
    "floats": ({"images": np.zeros((2, 4, 4, 1))}, "save them as uint8"),
    "too few axes": ({"images": np.zeros((2, 4), np.uint8)}, r"shape \(2, 4\)"),
    "empty": ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, "shape"),
    "label count": (
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(3, int)},
        "one integer per image",
    ),
    "label type": (
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(2)},
        "one integer per image",
    ),
    "negative label": (
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, -2])},
        "label -2 is negative",
    ),
    "identifiers": (
        {"images": np.zeros((3, 4, 4, 1), np.uint8), "labels": 20260000 + np.arange(3)},
        r"label 20260002 is not a class number; .*return_inverse=True\)\[1\]",
    ),
    "numbers beyond int64": (
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, 2**63], np.uint64)},
        "label 9223372036854775808 is not a class number",
    ),
    "one image": ({"images": np.zeros((32, 32, 3), np.uint8)}, r"save one image as images\[None\]"),
    "objects": ({"images": np.array([{}, {}], dtype=object)}, r"not a readable \.npz"),
}


CHANNELS_FIRST = [(5, 3, 32, 32), (5, 3, 32, 48), (5, 1, 28, 28), (5, 4, 8, 9), (5, 13, 64, 64)]


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_before_height_and_width_are_refused_with_the_transposition(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with pytest.raises(UserError, match=r"numpy\.transpose\(images, \(0, 2, 3, 1\)\)"):
        load_source(save(tmp_path / "a.npz", images=images))
    # The transposition that the message gives works, and the image is the same.
    right = np.transpose(images, (0, 2, 3, 1))
    source = load_source(save(tmp_path / "b.npz", images=right))
    np.testing.assert_array_equal(source.image(2)[..., -1], images[2, -1])


@pytest.mark.parametrize("shape", [(5, 9, 9, 200), (5, 3, 3, 9), (5, 32, 48, 3), (5, 3, 64, 3)])
def test_channels_after_height_and_width_are_accepted(tmp_path, shape):
    source = load_source(save(tmp_path / "a.npz", images=np.zeros(shape, np.uint8)))
    assert source.images.shape == shape


@pytest.mark.parametrize("kind", ["npz", "list"])
def test_identifiers_are_numbered_by_the_values_that_occur(tmp_path, kind):
    values = [200_000, 200_007, -1, 200_002, 200_007]
    if kind == "npz":
        images = np.zeros((5, 4, 4, 1), np.uint8)
        source = load_source(save(tmp_path / "a.npz", images=images, labels=values))
        labels, classes, count = source.labels, source.classes, source.num_classes
    else:
        labels, classes = number_labels(values, "list")
        count = len(classes)
    np.testing.assert_array_equal(labels, [0, 2, -1, 1, 2])
    assert classes == ("200000", "200002", "200007")
    assert count == 3
    few, names = number_labels([0, 9_999], "list")  # class numbers, most of them without an image
    np.testing.assert_array_equal(few, [0, 9_999])
    assert len(names) == 10_000


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_the_way_out(tmp_path, case):
    arrays, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load_source(save(tmp_path / "bad.npz", **arrays))


def test_an_invalid_source_is_refused(tmp_path):
    message = r"'digit' does not exist; give 'digits', an \.npz file"
    with pytest.raises(MissingDataError, match=message):
        load_source("digit")
    with pytest.raises(MissingDataError, match="does not exist"):
        load_source(str(tmp_path / "missing.npz"))
    (tmp_path / "text.npz").write_text("no zip file")
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        load_source(str(tmp_path / "text.npz"))
    good = tmp_path / "good.npz"
    np.savez(good, images=np.zeros((50, 8, 8, 1), np.uint8))
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        load_source(str(tmp_path / "cut.npz"))


@pytest.mark.parametrize(("name", "message"), [
    ("photos.zip", r"photos\.zip' is not a set of images; give 'digits'"),
    ("shard.tar.gz", r"decompress it by `gunzip .*/shard\.tar\.gz`"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_with_its_kind(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"\x1f\x8b of some kind")
    with pytest.raises(UserError, match=message):
        load_source(str(tmp_path / name))


@pytest.mark.parametrize("spec", ["gs://b/train-*.tar", "wds:https://b/{0..3}.tar", "hf://a/b"])
def test_a_source_on_another_machine_is_refused(spec):
    for function in (load_source, absolute_spec):
        with pytest.raises(UserError, match="is not on this machine; copy it here, or mount it"):
            function(spec)


@pytest.mark.parametrize(("spec", "absolute"), [
    ("wds:s-{000..002}.tar", "wds:HERE/s-{000..002}.tar"),
    ("a/**/*.parquet", "HERE/a/**/*.parquet"),
    ("tfds:mnist@train[:10%]", "tfds:mnist@train[:10%]"),
    ("tfds:./set@test", "tfds:HERE/set@test"),
    ("digits", "digits"),
])  # fmt: skip
def test_an_absolute_spec_works_from_any_folder(tmp_path, monkeypatch, spec, absolute):
    monkeypatch.chdir(tmp_path)
    assert absolute_spec(spec) == absolute.replace("HERE", str(tmp_path))


def test_the_split_is_a_partition_by_the_seed():
    train, validation = split(1000, 0.2, seed=3)
    assert len(validation) == 200
    assert sorted([*train, *validation]) == list(range(1000))
    again = split(1000, 0.2, seed=3)
    np.testing.assert_array_equal(train, again[0])
    assert set(validation) != set(split(1000, 0.2, seed=4)[1])


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(1.0, "give a fraction in"), (-0.1, "give a fraction in"), (0.001, "empty")],
)
def test_an_empty_split_is_refused(fraction, message):
    with pytest.raises(UserError, match=message):
        split(100, fraction, seed=0)


def test_channel_statistics_match_float64():
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 6, 3)).astype(np.uint8)
    images[..., 2] = 51  # a constant channel
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], (images / 255).std(axis=(0, 1, 2))[:2], rtol=1e-9)
    assert std[2] == 1 / 255
