"""WebDataset shards, written by tarfile: samples, labels, damage, and the cache."""

import io
import json
import os
import re
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from cssl_jax.data.formats.schema import MAX_CLASSES, number_labels
from cssl_jax.data.formats.shards import Shard, ShardReader, find_shards
from cssl_jax.data.formats.tar import open_tar
from cssl_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(number):
    file = io.BytesIO()
    PIL.Image.new("RGB", (5 + number, 4), (number, 2, 3)).save(file, "PNG")
    return file.getvalue()


def write(path, members, **options):
    """A tar of (name, content) pairs; a content of None is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, options.pop("mode", "w"), **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers):
    for number in numbers:
        yield f"{number:04}.png", png(number)
        yield f"{number:04}.cls", str(number % 3).encode()


@pytest.fixture
def folder(tmp_path):
    """Three shards of four samples each."""
    for shard in range(3):
        write(tmp_path / "set" / f"shard-{shard:02}.tar", samples(range(4 * shard, 4 * shard + 4)))
    return tmp_path / "set"


def contents(records):
    return [records.read(i) for i in range(len(records.names))]


def test_a_folder_of_shards_is_its_samples_in_order(folder):
    records = open_tar(str(folder))
    assert contents(records) == [png(number) for number in range(12)]
    assert records.names[4] == "shard-01.tar:0004"
    assert len(set(records.names)) == 12
    np.testing.assert_array_equal(records.labels, np.arange(12) % 3)
    assert records.labels.dtype == np.int64
    assert records.classes == ("0", "1", "2")
    assert records.skipped == 0
    stat = (folder / "shard-01.tar").stat()
    assert records.stamps[4] == f"{stat.st_size}-{stat.st_mtime_ns}-512"  # after the first header


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_format_of_tar_is_read(tmp_path, layout):
    long = "a" * 60 + "/" + "b" * 120 if layout != tarfile.USTAR_FORMAT else "a" * 60 + "/b"
    path = write(tmp_path / "x.tar", [(f"{long}.png", png(1)), ("ä.png", png(2))], format=layout)
    records = open_tar(str(path))
    assert contents(records) == [png(1), png(2)]
    assert records.names == (f"x.tar:{long}", "x.tar:ä")


def test_a_tar_of_the_tar_program_is_read(tmp_path):
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "sub/b.png", "sub/.hidden.png"]):
        (root / name).write_bytes(png(number))
    subprocess.run(["tar", "-cf", str(tmp_path / "x.tar"), "-C", str(root), "."], check=True)
    records = open_tar(str(tmp_path / "x.tar"))
    assert dict(zip(records.names, contents(records), strict=True)) == {
        "x.tar:a": png(0),
        "x.tar:sub/b": png(1),
    }


def test_a_sample_is_what_shares_a_name_up_to_its_first_dot(tmp_path):
    members = [
        ("cats", None),
        ("cats/1.seg.png", png(1)),
        ("cats/1.jpg", png(2)),
        ("dogs.v2/1.JPG", png(3)),
        ("dogs.v2/1.seg.png", png(4)),
        ("README", b"text"),
        ("only.txt", b"no image"),
        ("._cats.jpg", b"of a Mac"),
        ("cats/1.cls", b"7\n"),  # not next to its image: only the name decides
    ]
    path = write(tmp_path / "x.tar", members)
    records = open_tar(str(path), image_key="jpg")
    assert records.names == ("x.tar:cats/1", "x.tar:dogs.v2/1")
    assert contents(records) == [png(2), png(3)]
    assert list(records.labels) == [7, -1]
    assert records.skipped == 1
    assert contents(open_tar(str(path), image_key="seg.png")) == [png(1), png(4)]
    assert contents(open_tar(str(path), image_key="webp;SEG.PNG;jpg")) == [png(1), png(4)]
    with pytest.raises(UserError, match=r"cats/1 has the images seg\.png, jpg; .*image-key"):
        open_tar(str(path))
    with pytest.raises(UserError, match=r"no samples with an image \.bmp, only \.cls, \.jpg"):
        open_tar(str(path), image_key="bmp")


def test_a_member_that_was_appended_again_counts(tmp_path):
    path = write(tmp_path / "x.tar", [("a.png", png(1)), ("b.png", png(2))])
    write(path, [("a.png", png(3))], mode="a")
    records = open_tar(str(path))
    assert records.names == ("x.tar:a", "x.tar:b")
    assert contents(records) == [png(3), png(2)]


# --------------------------------------------------------------------------------------- labels


def labelled(tmp_path, members, **keys):
    numbered = [(f"{n}.{kind}", content) for n, kind, content in members]
    pairs = [(f"{n}.png", png(n)) for n in sorted({n for n, _, _ in members})]
    return open_tar(str(write(tmp_path / "x.tar", pairs + numbered)), **keys)


def test_labels_are_numbers_or_names_from_text_or_json(tmp_path):
    def of(*contents, kind="json", **keys):
        members = [(n, kind, content.encode()) for n, content in enumerate(contents)]
        records = labelled(tmp_path, members, **keys)
        return None if records.labels is None else list(records.labels), records.classes

    assert of('{"label": 2}', '{"label": 0}', "{}") == ([2, 0, -1], ("0", "1", "2"))
    assert of('{"label": "dog"}', '{"label": "cat"}') == ([1, 0], ("cat", "dog"))
    assert of('{"kind": "x"}', '{"label": 1}', label_key="kind") == ([0, -1], ("x",))
    assert of("dog", "cat", "dog", kind="cls") == ([1, 0, 1], ("cat", "dog"))
    assert of("-1", "1", "", kind="cls") == ([-1, 1, -1], ("0", "1"))
    assert of("tabby", "pug", kind="txt", label_key="txt") == ([1, 0], ("pug", "tabby"))
    assert of("[]", "{}") == (None, ())
    assert of("caption", kind="txt") == (None, ())


def test_the_text_file_has_priority_over_json(tmp_path):
    records = labelled(tmp_path, [(0, "cls", b"1"), (0, "json", b'{"label": 5}')])
    assert list(records.labels) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "x.tar: 0: its label cannot be read"),
        (b"\xff", "its label cannot be read"),
        (b'{"label": 0.5}', "label 0.5 is neither a whole number nor a name"),
        (b'{"label": [1]}', r"label \[1\] is neither"),
        (b'{"label": -7}', "label -7 is not a class number"),
        (b'{"label": 123456789}', "label 123456789 is not a class number"),
    ],
)
def test_an_invalid_label_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, [(0, "json", content)])


def test_numbers_and_names_do_not_mix_and_a_key_has_to_exist(tmp_path):
    members = [(0, "json", b'{"label": 0}'), (1, "json", b'{"label": "cat"}')]
    with pytest.raises(UserError, match=r"some labels are names \('cat'\) and some are numbers"):
        labelled(tmp_path, members)
    with pytest.raises(UserError, match="no sample has a label 'kind'"):
        labelled(tmp_path, members, label_key="kind")


def test_labels_have_to_fit_the_names_that_are_known():
    labels, classes = number_labels([1, None, "", -1, 0], "here", ["a", "b"])
    assert (list(labels), classes) == ([1, -1, -1, -1, 0], ("a", "b"))
    labels, _ = number_labels(["b", None], "here", ["a", "b"])
    assert list(labels) == [1, -1]
    for values in ([2], ["c"], [MAX_CLASSES]):
        with pytest.raises(UserError, match="here: label"):
            number_labels(values, "here", ["a", "b"])
    assert number_labels([None, -1, ""], "here", ["a", "b"]) == (None, ())


# ----------------------------------------------------------------------------------- which shards


def test_shards_are_given_by_file_pattern_or_range(folder, tmp_path):
    def of(spec):
        return [name.partition(":")[0] for name in open_tar(spec).names[::4]]

    one, two, three = (f"shard-{n:02}.tar" for n in range(3))
    assert of(str(folder / two)) == [two]
    assert of(f"{folder}/shard-*.tar") == [one, two, three]
    assert of(f"{folder}/shard-{{00..01}}.tar") == [one, two]
    assert of(f"{folder}/shard-{{02,00}}.tar") == [one, three]
    assert of(f"{folder}/shard-0[12].tar") == [two, three]
    assert of(f"{tmp_path}/**/shard-0?.tar") == [f"set/{name}" for name in (one, two, three)]


def test_ranges_count_as_the_shell_does(tmp_path):
    names = [f"x-{n}.tar" for n in range(8, 12)] + [f"y-{n:03}.tar" for n in range(8, 12)]
    for name in names:
        write(tmp_path / name, [("a.png", png(1))])
    for pattern in ("x-{8..11}.tar", "y-{008..011}.tar"):
        line = subprocess.run(
            ["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True
        )
        shards = find_shards(f"{tmp_path}/{pattern}", ".tar")
        assert sorted(shard.name for shard in shards) == sorted(line.stdout.split())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.tar", "there is no file .*none.tar"),
        ("set/shard-{00..03}.tar", "there is no file .*shard-03.tar"),
        ("set/shard-{02..00}.tar", "counts down"),
        ("set/*.tgz", "there is no file"),
        (".", r"contains no \.tar files; for files in sub-folders give '.*/\*\*/\*\.tar'"),
    ],
)
def test_shards_that_are_not_there_are_named(folder, tmp_path, spec, message):
    with pytest.raises(UserError, match=message):
        open_tar(str(tmp_path / spec))


def test_a_folder_that_mixes_train_and_test_is_refused(tmp_path):
    for name in ("imagenet-train-00.tar", "imagenet-val-00.tar", "testimony.tar"):
        write(tmp_path / name, [("a.png", png(1))])
    with pytest.raises(UserError, match=r"files of train and val; choose one: '.*\*train\*\.tar'"):
        open_tar(str(tmp_path))
    assert len(open_tar(f"{tmp_path}/*train*.tar").names) == 1


# ---------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("suffix", "mode", "program"),
    [(".tar.gz", "w:gz", "gunzip"), (".tgz", "w:gz", "gunzip"), (".tar.bz2", "w:bz2", "bunzip2"),
     (".tar.xz", "w:xz", "unxz"), (".tar", "w:gz", "gunzip")],
)  # fmt: skip
def test_a_compressed_tar_is_refused_with_the_way_to_unpack_it(tmp_path, suffix, mode, program):
    path = write(tmp_path / "set" / f"x{suffix}", [("a.png", png(1))], mode=mode)
    for spec in (path, path.parent):
        with pytest.raises(UserError, match=f"compressed.*`{program} {re.escape(str(path))}`"):
            open_tar(str(spec))
    command = [program, str(path)]
    if suffix != ".tar":
        subprocess.run(command, check=True)
        assert contents(open_tar(str(path.parent))) == [png(1)]


def test_a_tar_that_is_cut_short_anywhere_is_named(tmp_path):
    path = write(tmp_path / "x.tar", samples(range(3)))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in [0, 100, 511, *range(512, end + 1, 256)]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"x\.tar is damaged or cut short"):
            open_tar(str(path))
    path.write_bytes(whole[: end + 1024])  # all but the padding after the two blocks at the end
    assert len(open_tar(str(path)).names) == 3


def test_a_damaged_header_does_not_pass_for_the_end(tmp_path):
    path = write(tmp_path / "x.tar", samples(range(3)))
    whole = path.read_bytes()
    for block in range(0, 6 * 1024, 1024):
        assert whole[block : block + 4].isdigit()  # a header
        damaged = bytearray(whole)
        damaged[block + 1] ^= 3
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.tar is damaged"):
            open_tar(str(path))
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match=r"x\.tar is damaged"):
        open_tar(str(path))


def test_a_tar_without_samples_is_refused(tmp_path):
    with pytest.raises(UserError, match="no samples with an image, only no files"):
        open_tar(str(write(tmp_path / "x.tar", [])))
    with pytest.raises(UserError, match=r"only \.dat, \.txt; .*--data\.image-key"):
        open_tar(str(write(tmp_path / "x.tar", [("a.txt", b"x"), ("a.dat", b"y")])))


# --------------------------------------------------------------------------------- cache, threads


def test_the_second_opening_reads_no_shard_until_one_changes(folder):
    first = open_tar(str(folder))
    path = folder / "shard-01.tar"
    stat, whole = path.stat(), path.read_bytes()
    # Different bytes with the same size and time: reading them instead of the cache fails.
    path.write_bytes(b"\xff" * len(whole))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = open_tar(str(folder))
    assert (again.names, again.stamps, again.classes) == (first.names, first.stamps, first.classes)
    np.testing.assert_array_equal(again.labels, first.labels)
    np.testing.assert_array_equal(again.locations, first.locations)
    with pytest.raises(UserError, match="is damaged"):
        open_tar(str(folder), image_key="png")  # another key: this index is not cached
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="is damaged"):
        open_tar(str(folder))


def test_a_damaged_or_unwritable_cache_is_ignored(folder, cache, monkeypatch):
    first = open_tar(str(folder))
    files = list((cache / "index").iterdir())
    assert len(files) == 3
    for file, content in zip(files, ["", "{}", json.dumps([1])], strict=True):
        file.write_text(content)
    assert open_tar(str(folder)).names == first.names
    (cache.parent / "file").write_text("not a folder")
    monkeypatch.setenv("CSSL_JAX_CACHE", str(cache.parent / "file" / "below"))
    assert open_tar(str(folder)).names == first.names


def test_a_shard_that_changes_after_opening_cannot_be_read(folder):
    records = open_tar(str(folder))
    write(folder / "shard-00.tar", samples(range(50, 54)))
    os.utime(folder / "shard-00.tar", ns=(0, 0))
    with pytest.raises(OSError, match=r"shard-00\.tar has changed since"):
        records.read(0)
    (folder / "shard-01.tar").unlink()
    with pytest.raises(FileNotFoundError):
        records.read(4)
    assert records.read(8) == png(8)


def test_many_threads_read_many_shards_with_few_descriptors(tmp_path):
    count = 40
    shards = []
    for number in range(count):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(np.random.default_rng(number).bytes(5000))
        stat = path.stat()
        shards.append(Shard(path.name, path, f"{stat.st_size}-{stat.st_mtime_ns}"))
    reader = ShardReader(shards, max_open=3)
    rng = np.random.default_rng(0)
    byte_ranges = [tuple(rng.integers(0, (count, 4000, 1000)).tolist()) for _ in range(3000)]
    before = len(os.listdir("/proc/self/fd"))
    maximum = 0

    def read(byte_range):
        nonlocal maximum
        content = reader.read(*byte_range)
        maximum = max(maximum, len(os.listdir("/proc/self/fd")) - before)
        return content

    with ThreadPoolExecutor(16) as pool:
        contents = list(pool.map(read, byte_ranges))
    for (shard, offset, size), content in zip(byte_ranges, contents, strict=True):
        assert content == shards[shard].path.read_bytes()[offset : offset + size]
    # 3 files stay open, and every thread has at most one file and one folder listing open.
    assert 3 <= maximum <= 3 + 2 * 16
    assert len(os.listdir("/proc/self/fd")) - before == 3
    with pytest.raises(OSError, match="ends early, at byte 5000"):
        reader.read(0, 4990, 20)


def test_records_of_tar_are_read_by_many_threads(folder):
    records = open_tar(str(folder))
    order = np.random.default_rng(0).integers(0, 12, 1000).tolist()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(records.read, order)) == [png(i) for i in order]
