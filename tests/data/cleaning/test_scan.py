"""Scan of images: excluded records and their reasons, the cache, and the limit that stops a run."""

import csv
import os

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from cssl_jax.data.cleaning import scan
from cssl_jax.data.formats.image_folder import open_folder
from cssl_jax.data.sources import decode
from cssl_jax.errors import UserError
from helpers import dirty_images

LIMITS = {"channels": 3, "min_side": 8, "max_pixels": 10**8}


class Counting:
    """Records that log the names of the records that are read."""

    def __init__(self, records):
        self._records, self.read_names = records, []

    def __getattr__(self, name):
        return getattr(self._records, name)

    def read(self, index):
        self.read_names.append(self.names[index])
        return self._records.read(index)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("salted")
    return root, *dirty_images.make(root)


def scan_folder(root, **options):
    return scan.scan(open_folder(root), **{**LIMITS, **options})


def test_exactly_the_bad_files_are_rejected_and_all_others_kept(folder, tmp_path):
    root, good, bad = folder
    records = open_folder(root)
    index = scan.scan(records, **LIMITS)
    rows = scan.rejected(records.names, index)
    assert {name: reason for name, reason, _ in rows} == bad
    assert {records.names[i] for i in index.kept} == set(good)
    scan.write_rejected(tmp_path / "rejected.csv", rows)
    with (tmp_path / "rejected.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["path"] for row in written] == sorted(bad)
    details = {row["path"]: row["detail"] for row in written}
    assert details["png/zz-again.png"] == "same bytes as png/colour.png"
    assert details["other/tiny.png"] == "3 x 3 px, at least 8 px per side"
    assert details["other/bomb.png"] == "60000 x 60000 px, at most 100,000,000 pixels"


def test_sizes_kinds_and_statistics_match_the_decoded_images(folder):
    root, _, _ = folder
    records = open_folder(root)
    index = scan.scan(records, **LIMITS)
    for i in index.kept:
        assert (index.height[i], index.width[i]) == (40, 56)
        decoded = decode.decode(records.read(i), 3) / 255
        np.testing.assert_allclose(index.mean[i], decoded.mean(axis=(0, 1)), rtol=1e-12)
        np.testing.assert_allclose(index.square[i], (decoded**2).mean(axis=(0, 1)), rtol=1e-12)
    kinds = dict(zip(records.names, index.kind, strict=True))
    assert kinds["other/sixteen.tif"] == "TIFF I;16"
    assert kinds["jpeg/cmyk.jpg"] == "JPEG CMYK"


def test_only_new_and_changed_files_are_read_again(tmp_path):
    root, cache = tmp_path / "images", tmp_path / "cache" / "index.npz"
    dirty_images.make(root)
    first = Counting(open_folder(root))
    before = scan.scan(first, **LIMITS, cache=cache)
    assert len(first.read_names) == len(first.names)
    again = Counting(open_folder(root))
    after = scan.scan(again, **LIMITS, cache=cache)
    assert again.read_names == []
    assert before.reason == after.reason
    for name in ("height", "digest", "phash", "mean", "square", "plain_jpeg"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    (root / "new.png").write_bytes(dirty_images.encode(dirty_images.pixels(99), "PNG"))
    changed = root / "png" / "colour.png"
    changed.write_bytes(dirty_images.encode(dirty_images.pixels(98), "PNG"))
    os.utime(changed, ns=(1, 1))
    (root / "png" / "grey.png").unlink()
    partly = Counting(open_folder(root))
    index = scan.scan(partly, **LIMITS, cache=cache)
    assert sorted(partly.read_names) == ["new.png", "png/colour.png"]
    # The changed file is no longer identical to this one.
    assert "png/zz-again.png" in {partly.names[i] for i in index.kept}


def test_other_limits_need_no_new_scan_and_other_channels_do(folder, tmp_path):
    root, _, _ = folder
    cache = tmp_path / "index.npz"
    scan_folder(root, cache=cache)
    records = Counting(open_folder(root))
    stricter = scan.scan(records, **{**LIMITS, "min_side": 41}, cache=cache)
    assert len(stricter.kept) == 0
    smaller = scan.scan(records, **{**LIMITS, "max_pixels": 2000}, cache=cache)
    assert smaller.reason.count("oversize") > 30
    assert records.read_names == []
    scan.scan(records, **{**LIMITS, "channels": 1}, cache=cache)
    assert len(records.read_names) == len(records.names)


def test_an_oversize_image_is_decoded_when_the_limit_rises(tmp_path):
    root, cache = tmp_path / "images", tmp_path / "index.npz"
    root.mkdir()
    (root / "a.png").write_bytes(dirty_images.encode(dirty_images.pixels(0), "PNG"))
    assert scan_folder(root, max_pixels=100, cache=cache).reason == ("oversize",)
    index = scan_folder(root, cache=cache)
    assert index.reason == ("",)
    np.testing.assert_allclose(index.mean[0], dirty_images.pixels(0).mean(axis=(0, 1)) / 255)


def test_headers_that_claim_huge_sizes_are_rejected(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (root / "good.png").write_bytes(dirty_images.encode(dirty_images.pixels(0), "PNG"))
    (root / "wide.png").write_bytes(dirty_images.bomb(2**32 - 1, 1))
    (root / "wide-and-high.png").write_bytes(dirty_images.bomb(2**32 - 1, 2**32 - 1))
    (root / "no-pixels.png").write_bytes(dirty_images.bomb(0, 0))
    cache = tmp_path / "index.npz"
    for _ in range(2):  # the second scan reads the cache
        reasons = dict(
            zip(open_folder(root).names, scan_folder(root, cache=cache).reason, strict=True)
        )
        assert reasons == {
            "good.png": "",
            "no-pixels.png": "unreadable",
            "wide-and-high.png": "oversize",
            "wide.png": "oversize",
        }


class Refusing(Counting):
    """Records that raise an error when one of the refused names is read."""

    refused = ("a.png",)
    error = PermissionError(13, "Permission denied")

    def read(self, index):
        if self.names[index] in self.refused:
            raise self.error
        return super().read(index)


def test_a_file_that_could_not_be_read_is_read_again(tmp_path):
    root, cache = tmp_path / "images", tmp_path / "index.npz"
    root.mkdir()
    for seed, name in enumerate("abc"):
        (root / f"{name}.png").write_bytes(dirty_images.encode(dirty_images.pixels(seed), "PNG"))
    (root / "c.png").write_bytes(b"this stays unreadable")
    index = scan.scan(Refusing(open_folder(root)), **LIMITS, cache=cache)
    assert index.reason == ("unreadable", "", "unreadable")
    assert index.detail[0] == "Permission denied"
    readable = Counting(open_folder(root))  # chmod changes neither size nor modification time
    assert scan.scan(readable, **LIMITS, cache=cache).reason == ("", "", "unreadable")
    assert readable.read_names == ["a.png"]


def test_an_interrupted_scan_resumes_where_it_stopped(tmp_path):
    root, cache = tmp_path / "images", tmp_path / "index.npz"
    root.mkdir()
    for seed in range(200):
        content = dirty_images.encode(dirty_images.pixels(seed), "PNG")
        (root / f"{seed:03d}.png").write_bytes(content)
    stopped = Refusing(open_folder(root))
    stopped.refused, stopped.error = ("150.png",), KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        scan.scan(stopped, **LIMITS, cache=cache)
    rest = Counting(open_folder(root))
    assert scan.scan(rest, **LIMITS, cache=cache).reason == ("",) * 200
    assert sorted(rest.read_names) == [f"{seed:03d}.png" for seed in range(150, 200)]


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 broken"])
def test_a_damaged_cache_is_replaced(folder, tmp_path, content):
    root, _, bad = folder
    cache = tmp_path / "index.npz"
    cache.write_bytes(content)
    index = scan_folder(root, cache=cache)
    assert sum(map(bool, index.reason)) == len(bad)
    records = Counting(open_folder(root))
    scan.scan(records, **LIMITS, cache=cache)
    assert records.read_names == []


def test_a_scan_works_without_a_writable_cache(folder, tmp_path):
    root, good, _ = folder
    (tmp_path / "file").write_text("a file where the cache folder should be")
    assert len(scan_folder(root, cache=tmp_path / "file" / "index.npz").kept) == len(good)


def test_too_large_a_fraction_of_bad_files_is_an_error_with_the_counts(folder):
    root, good, bad = folder
    index = scan_folder(root)
    total = len(good) + len(bad)
    scan.check_rejected_fraction(index, "mine", len(bad) / total)
    message = rf"mine: {len(bad)} of {total} .*6 truncated.*data\.max_rejected"
    with pytest.raises(UserError, match=message):
        scan.check_rejected_fraction(index, "mine", len(bad) / total - 0.001)
    with pytest.raises(UserError, match=r"none of \d+ images can be used"):
        scan.check_rejected_fraction(scan_folder(root, min_side=1000), "mine", 1.0)


def bits(a, b):
    return int(a ^ b).bit_count()


def test_the_perceptual_hash_survives_encoding_and_resizing_and_separates_images():
    photos = load_sample_images().images
    crops = [
        np.ascontiguousarray(photo[y : y + 160, x : x + 200])
        for photo in photos
        for y in range(0, 260, 120)
        for x in range(0, 430, 140)
    ]
    hashes = [scan.perceptual_hash(crop) for crop in crops]
    for crop, original in zip(crops, hashes, strict=True):
        jpeg = decode.decode(dirty_images.encode(crop, "JPEG", quality=40), 3)
        small = PIL.Image.fromarray(crop).resize((100, 80))
        assert bits(original, scan.perceptual_hash(jpeg)) <= 4
        assert bits(original, scan.perceptual_hash(np.asarray(small))) <= 4
    distances = [bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 8


def test_images_without_structure_have_no_hash():
    assert scan.perceptual_hash(np.full((30, 40, 3), 128, np.uint8)) == 0
