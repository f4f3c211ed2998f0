"""Leakage: copies are found and named; clean splits, even of similar images, are not flagged."""

import io

import numpy as np
import PIL.Image
import pytest

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning.near_duplicates import near_pairs
from cssl_jax.data.sources import arrays
from cssl_jax.data.sources.base import ArraySource, split
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage


def scenes(count, size=48, seed=0):
    """Smooth colour images: like photographs, unlike noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([
        np.asarray(PIL.Image.fromarray(c).resize((size, size), PIL.Image.Resampling.BICUBIC))
        for c in coarse
    ])  # fmt: skip


def source(images, labels=None, name="set"):
    return ArraySource(name, images, labels)


def again(image, quality=90, size=48):
    """The image, saved as a JPEG in another size."""
    file = io.BytesIO()
    small = PIL.Image.fromarray(image).resize((size, size), PIL.Image.Resampling.BILINEAR)
    small.save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))


def test_a_clean_split_is_called_clean():
    found = leakage.find_leakage(source(scenes(30)), source(scenes(20, seed=1)), "training images")
    assert (found["exact"], found["near"], found["share"]) == (0, 0, 0.0)
    assert found["words"] == (
        "no leakage found: none of the 20 test images is among the training images, exactly or "
        "nearly"
    )


def test_the_embedded_digits_are_similar_and_not_leaking():
    digits = arrays.digits()
    train, validation = (digits.take(part) for part in split(len(digits), 0.2, 0))
    assert leakage.find(train, validation)["share"] == 0.0


def test_planted_copies_are_counted_and_named():
    train, test = scenes(30), scenes(20, seed=1)
    test[3], test[7] = train[5], train[6]  # identical
    test[11] = again(train[19])  # re-encoded
    test[12] = np.clip(train[21] * 0.8 + 20, 0, 255).astype(np.uint8)  # paler
    test[13] = train[22].mean(axis=-1, keepdims=True).astype(np.uint8)  # in grey
    labels = np.arange(30) % 3
    other = labels[:20].copy()
    other[[3, 11]] = labels[[5, 19]]
    other[7] = (labels[6] + 1) % 3  # the same image, another label
    other[[12, 13]] = labels[[21, 22]]
    found = leakage.find_leakage(source(train, labels), source(test, other), "training images")
    assert (found["exact"], found["near"], found["other_labels"]) == (2, 3, 1)
    assert found["share"] == 5 / 20
    named = {pair["test"]: (pair["train"], pair["kind"]) for pair in found["pairs"]}
    assert named == {
        "image 3": ("image 5", "exact"),
        "image 7": ("image 6", "exact"),
        "image 11": ("image 19", "near"),
        "image 12": ("image 21", "near"),
        "image 13": ("image 22", "near"),
    }
    assert found["words"].startswith(
        "LEAKAGE: 5 of 20 test images (25.0 %) are among the training images: 2 exactly, 3 nearly; "
        "1 of them with another label. Example: image 3 = image 5."
    )


def test_a_copy_without_a_label_has_no_other_label():
    images = scenes(4)
    labels, some = np.arange(4), np.array([0, -1, 3, 3])
    assert leakage.find(source(images, labels), source(images, some))["other_labels"] == 1
    assert leakage.find(source(images, labels), source(images))["other_labels"] == 0


@pytest.mark.parametrize("in_memory", [False, True])
def test_files_are_compared_by_their_bytes_and_named_by_their_paths(tmp_path, in_memory):
    for part, seed in (("train", 0), ("test", 1)):
        for number, image in enumerate(scenes(6, seed=seed)):
            folder = tmp_path / part / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image).save(folder / f"{number}.png")
    copy = tmp_path / "train" / "class0" / "0.png"
    (tmp_path / "test" / "class0" / "copy.png").write_bytes(copy.read_bytes())
    PIL.Image.open(tmp_path / "train" / "class1" / "1.png").save(
        tmp_path / "test" / "class1" / "smaller.jpg", quality=70
    )
    train, test = (
        load_source(str(tmp_path / part), ImageOptions(in_memory=in_memory))
        for part in ("train", "test")
    )
    assert isinstance(train, ArraySource) is in_memory
    found = leakage.find(train, test)
    pairs = {(pair["test"], pair["train"], pair["kind"]) for pair in found["pairs"]}
    assert pairs == {
        ("class0/copy.png", "class0/0.png", "exact"),
        ("class1/smaller.jpg", "class1/1.png", "near"),
    }


def test_images_without_structure_leak_only_where_they_are_the_same():
    blank = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (10, 200, 90)])
    found = leakage.find(source(blank[:2]), source(blank[1:]))
    assert (found["exact"], found["near"]) == (1, 0)


def test_near_pairs_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    first = rng.integers(1, 2**63, 40).astype(np.uint64)
    flips = np.array([np.uint64(1) << np.uint64(b) for b in rng.integers(0, 63, 40)])
    second = np.concatenate([first[:10] ^ flips[:10], first[10:14], [np.uint64(0)],
                             rng.integers(1, 2**63, 20).astype(np.uint64)])  # fmt: skip
    first[0] = first[1]  # two images with the same hash
    expected = [
        (i, j)
        for i in range(len(first))
        for j in range(len(second))
        if second[j] and bin(int(first[i]) ^ int(second[j])).count("1") <= 4
    ]
    assert near_pairs(first, second) == expected
    assert len(expected) >= 13


def test_splits_with_other_channels_cannot_be_compared():
    with pytest.raises(UserError, match="set has 3 channels, set 1; read both"):
        leakage.find(source(scenes(2)), source(scenes(2)[..., :1]))
