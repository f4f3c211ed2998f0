"""The benchmark of the input: what its JSON holds, and that what was not measured is no win."""

import json
import pathlib
import subprocess
import sys

import PIL.Image
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(what it printed, its JSON) at sizes that take no time, without a peer and without a GPU."""
    results = tmp_path_factory.mktemp("input") / "input.json"
    options = ["--sections", "host-plain,parts,resident"]
    options += [
        "--contenders",
        "tf-split,threads,plain,opencv,albumentations,lightly",
        "--size",
        "16",
        "--count",
        "8",
    ]
    options += ["--examples", "4", "--rounds", "1", "--seconds", "0.01", "--growth-batches", "4"]
    options += ["--peer-python", "", "--results", str(results)]
    command = [sys.executable, str(BENCHMARKS / "input.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(results.read_text())


def row(ran, contender):
    (found,) = [r for r in ran[1]["host-plain"]["rows"] if r["contender"] == contender]
    return found


@pytest.mark.slow
def test_json_says_what_was_measured_where(ran):
    assert set(ran[1]) == {"host-plain", "parts", "resident"}
    host = ran[1]["host-plain"]
    assert {"command", "date", "machine", "versions", "photos", "cores"} <= set(host)
    assert host["policy"] == {"interpolation": "bilinear", "antialias": False}
    assert host["photos"].startswith("scikit-learn's two sample photos")


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["tf-split", "threads", "plain"])
def test_every_contender_has_its_pace_and_its_memory(ran, contender):
    found = row(ran, contender)
    assert found["views_s"] > 0
    assert found["memory_bytes"] > 0
    assert found["baseline_bytes"] > 50e6  # JAX or TensorFlow itself
    assert ("growth" in found) == (contender != "plain")


@pytest.mark.slow
def test_what_was_not_measured_is_named_and_beats_nobody(ran):
    printed, sections = ran
    assert row(ran, "lightly")["failed"] == "not measured: no --peer-python"
    assert "not measured: no --peer-python" in printed
    assert "not measured: JAX's default backend is cpu, not gpu" in printed
    targets = [t for section in sections.values() for t in section["targets"]]
    for found in targets:
        if "albumentations" in found["target"] or "step" in found["target"]:
            assert found["met"] is None
    met = {found["target"]: found["met"] for found in targets}
    assert met["tf.data, whole policy / OpenCV by hand, whole"] is None  # ours was left out
    assert met["threads, split / OpenCV by hand, split"] is None  # both were
    assert met["threads, whole policy / OpenCV by hand, whole"] is not None


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_the_json(ran):
    text = json.dumps(ran[1])
    assert str(BENCHMARKS.parent) not in text
    assert sys.executable not in text


def test_the_photos_are_of_the_size_and_quality_that_are_named(tmp_path):
    from input import photos

    photos.make(tmp_path, None, 2)
    first = sorted(tmp_path.iterdir())[0]
    with PIL.Image.open(first) as photo:
        assert (photo.format, photo.size, photo.mode) == ("JPEG", (500, 375), "RGB")
        luminance = photo.quantization[0]
    assert luminance[0] == 3  # the standard table's 16 at quality 90: (16 * 20 + 50) // 100


def test_too_few_photos_are_refused_with_a_message(tmp_path):
    import tarfile

    from input import photos

    PIL.Image.new("L", (30, 20)).save(tmp_path / "one.jpg")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "one.jpg", "train/one.jpg")
    with pytest.raises(SystemExit, match="has 1 photos; give --count 1"):
        photos.make(tmp_path, tmp_path / "photos.tar", 2)


@pytest.mark.slow
def test_a_step_that_makes_its_views_takes_longer_than_one_that_is_given_them():
    from measuring import process

    overrides = {"model.encoder": "resnet10", "model.width": 1 / 64, "train.batch_size": 32}
    found = process.call("input.resident.measure", seconds=0.2, overrides=overrides)
    assert "failed" not in found, found
    assert found["batch_size"] == 32
    assert 0 < found["share"] < 1  # a sliver of a network: most of the step is the views'
    assert found["host_ms"] > 0


def test_a_minimum_is_missed_from_below():
    from measuring.report import target, verdict

    assert target("views/s", [900.0, 1100.0], 1000, at_least=True)["met"] is False
    assert target("views/s", [1100.0], 1000, at_least=True)["met"] is True
    assert "(at least 1000)" in verdict(target("views/s", [1100.0], 1000, at_least=True))
