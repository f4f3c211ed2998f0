"""Runs on images of any size: cleaning, resume, partial labels, evaluation, features."""

import csv

import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.errors import UserError
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.train import resume
from helpers import tiny
from helpers.stops import CrashError, crash_after


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 24 images of many sizes, and two files that are not images."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(48):
        place = root / ("bright", "dark")[number % 2]
        place.mkdir(exist_ok=True)
        coarse = rng.integers(0, 128, (3, 4, 3)) + 127 * (number % 2 == 0)
        height, width = rng.integers(10, 40, 2)
        pil_image = PIL.Image.fromarray(coarse.astype(np.uint8)).resize((width, height))
        pil_image.save(place / f"{number:02}.{'jpg' if number % 3 else 'png'}")
    (root / "dark" / "cut.jpg").write_bytes((root / "dark" / "01.jpg").read_bytes()[:-40])
    (root / "dark" / "copy.jpg").write_bytes((root / "dark" / "01.jpg").read_bytes())
    return root


def make_config(folder, **data):
    config = tiny.config(epochs=2, checkpoint_every=1, evaluate_every=0)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    config = tiny.replace(config, "data", source=str(folder), size=8, validation_fraction=0.25)
    return tiny.replace(config, "data", **data)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, cssl_jax.pretrain(make_config(folder), path)


@pytest.mark.slow  # test_pretrain resumes a run on arrays in the fast suite
@pytest.mark.parametrize("data", [
    {"engine": "tf"}, {"engine": "threads"}, {"engine": "threads", "augment_on": "host"}
])  # fmt: skip
def test_a_killed_run_on_images_ends_with_the_same_bits(folder, tmp_path, data):
    if data["engine"] == "tf":
        pytest.importorskip("tensorflow")
    config = make_config(folder, **data)
    cssl_jax.pretrain(config, tmp_path / "whole")
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(3)])
    cssl_jax.pretrain(config, tmp_path / "run")
    for name in ("metrics.jsonl", "rejected.csv", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_was_excluded_is_listed_in_the_run(run, folder, capfd):
    path, results = run
    with (path / "rejected.csv").open(newline="") as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert rows == {"dark/cut.jpg": "truncated", "dark/copy.jpg": "duplicate"}
    assert results["split"] == {"train": 36, "validation": 12}
    assert results["num_classes"] == 2
    assert cli.main(["pretrain", str(path / "config.json"), "--workdir", str(path)]) == 0
    assert "2 excluded (rejected.csv)" in capfd.readouterr().err


def test_evaluating_again_gives_the_runs_results(run):
    path, results = run
    again = cssl_jax.evaluate_run(path, ("knn", "linear"))
    for name in ("knn", "linear"):
        assert again[name] == results[name]
        assert again["pixels"][name] == results["pixels"][name]


def test_embed_writes_the_name_of_every_image_beside_its_features(run, folder, tmp_path):
    path, _ = run
    output = tmp_path / "features.npz"
    command = ["embed", str(path), "--data.source", str(folder), "--output", str(output)]
    assert cli.main(command) == 0
    content = np.load(output)
    assert content["features"].shape[0] == len(content["names"]) == len(content["labels"]) == 48
    encoder = cssl_jax.load_encoder(path)
    for row in (0, 17, 47):
        pil_image = PIL.Image.open(folder / content["names"][row]).convert("RGB")
        side = min(pil_image.size)
        left, top = (pil_image.width - side) // 2, (pil_image.height - side) // 2
        square = pil_image.crop((left, top, left + side, top + side))
        alone = encoder(np.asarray(square)[None])[0]
        # The file is resized on the host and rounded, the array on the device.
        np.testing.assert_allclose(content["features"][row], alone, rtol=0.1, atol=0.05)


@pytest.mark.slow
def test_images_without_a_label_train_and_are_not_evaluated(folder, tmp_path):
    table = tmp_path / "labels.csv"
    names = [f"{kind}/{n:02}.{'jpg' if n % 3 else 'png'}" for n in range(48)
             for kind in (("bright", "dark")[n % 2],)]  # fmt: skip
    rows = [f"{name},{name.partition('/')[0]}" for name in names if int(name[-6:-4]) < 32]
    table.write_text("\n".join(["path,label", *rows]))
    results = cssl_jax.pretrain(make_config(folder, labels=str(table)), tmp_path / "run")
    assert results["split"] == {"train": 36, "validation": 12}
    assert {"knn", "linear"} <= results.keys()


@pytest.mark.slow
def test_images_without_any_labels_have_label_free_metrics(folder, tmp_path):
    results = cssl_jax.pretrain(make_config(folder, labels="none"), tmp_path / "run")
    assert {"view_retrieval", "alignment", "uniformity", "rankme"} <= results.keys()
    assert "knn" not in results


def test_too_many_bad_images_stop_before_anything_is_written(folder, tmp_path):
    with pytest.raises(UserError, match=r"2 of 50 images would be excluded"):
        cssl_jax.pretrain(make_config(folder, max_rejected=0.01), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_many_sizes_need_the_side_of_a_view(folder, tmp_path):
    with pytest.raises(UserError, match=r"--data\.size"):
        cssl_jax.pretrain(make_config(folder, size=0), tmp_path / "run")


@pytest.mark.parametrize(("data", "message"), [
    ({"resident": True}, "exclude each other"),
    ({"augment_on": "device"}, "cropped on the host"),
    ({"in_memory": True}, "images of one size"),
])  # fmt: skip
def test_requests_that_images_cannot_meet_are_refused(folder, tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        cssl_jax.pretrain(make_config(folder, **data), tmp_path / "run")


# --------------------------------------------------------------------------------------- commands


def test_data_check_reports_and_writes_the_rejected_list(folder, tmp_path, capsys):
    listed, summary = tmp_path / "rejected.csv", tmp_path / "figures.json"
    command = ["data", "check", str(folder), "--rejected", str(listed), "--json", str(summary)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "50 images, 48 kept, 2 excluded" in out
    assert "dark/cut.jpg" in out
    assert listed.read_text().splitlines()[0] == "path,reason,detail"
    assert '"kept": 48' in summary.read_text()


@pytest.mark.slow
def test_data_split_writes_lists_that_a_run_takes(folder, tmp_path, capsys):
    lists = tmp_path / "lists"
    command = ["data", "split", str(folder), "--output", str(lists)]
    assert cli.main([*command, "--fractions", "0.7", "0.3", "0"]) == 0
    assert "train.csv" in capsys.readouterr().out
    config = make_config(
        lists / "train.csv", validation_source=str(lists / "validation.csv"), engine="threads"
    )
    results = cssl_jax.pretrain(config, tmp_path / "run")
    assert sum(results["split"].values()) == 48
    assert results["num_classes"] == 2


def test_recipes_diff_shows_a_table(capsys):
    assert cli.main(["recipes", "diff", "digits", "debug"]) == 0
    assert capsys.readouterr().out.startswith("field")


@pytest.mark.parametrize(("arguments", "message"), [
    (["data", "check", "nowhere"], "data check: data source 'nowhere' does not exist"),
    (["data", "chekc", "nowhere"], "did you mean 'data check'?"),
    (["data", "splt", "nowhere"], "no command 'data splt'; did you mean 'data split'?"),
    (["recipes", "diff", "digits", "digit"], "did you mean 'digits'?"),
])  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_hash_of_a_config_does_not_depend_on_where_the_images_lie(folder):
    here, there = make_config("/a/photos"), make_config("/b/photos")
    assert recipes.config_hash(here) == recipes.config_hash(there)


class Checkpoint:
    """Of a run that began with some kernels, or, like those of version 0.1, does not tell."""

    def __init__(self, **meta):
        self._meta = meta

    def read_meta(self):
        return self._meta


def test_a_run_continues_with_the_kernels_that_it_began_with(folder, monkeypatch, capfd):
    experiment = Experiment.from_config(make_config(folder, engine="threads"))
    assert experiment.pipeline.kernels == experiment.meta["kernels"] == "opencv"
    assert (
        resume.with_kernels_of(experiment, Checkpoint(kernels="opencv")).pipeline.kernels
        == "opencv"
    )
    old = resume.with_kernels_of(experiment, Checkpoint())
    assert old.pipeline.kernels == old.pipeline.view_job.kernels == old.meta["kernels"] == "jax"
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(painter, "installed", lambda: False)
    without = resume.with_kernels_of(experiment, Checkpoint(kernels="opencv"))
    assert without.pipeline.kernels == without.meta["kernels"] == "jax"
    assert "pip install opencv-python-headless simplejpeg" in capfd.readouterr().err


def test_views_by_both_kernels_differ_in_rounding_only(folder):
    pipeline = Experiment.from_config(
        make_config(folder, engine="threads", augment_on="host")
    ).pipeline
    ours, reference = (
        next(pipeline.with_kernels(kernels).host_batches(0, 1)) for kernels in ("opencv", "jax")
    )
    np.testing.assert_array_equal(ours["index"], reference["index"])
    difference = ours["views"]["main"].astype(int) - reference["views"]["main"]
    assert np.abs(difference).max() <= 1
