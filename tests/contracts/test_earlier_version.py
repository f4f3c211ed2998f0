"""Folders that an earlier version wrote open: run, checkpoint, results.json, report, sweep.

``tests/goldens/earlier_version/README.md`` says where they come from. Expected values are those
that the earlier version wrote.
"""

import json
import pathlib
import shutil
import tarfile

import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.evaluate.results import Results
from cssl_jax.files import write_json
from cssl_jax.sweeps import read_sweep

ARCHIVE = pathlib.Path(__file__).parents[1] / "goldens" / "earlier_version" / "runs.tar.xz"
LAST, BEFORE = 10, 5  # steps of the run's checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_archive_is_small():
    assert ARCHIVE.stat().st_size < 200_000


def test_results_are_read_and_written_back_to_the_byte(folder, tmp_path):
    saved = folder / "run" / "results.json"
    results = Results.from_json(json.loads(saved.read_text()))
    assert (results.step, results.num_classes) == (LAST, 10)
    assert [name for name, _ in results.rows] == [
        *("trained encoder", "untrained encoder", "raw pixels")
    ]
    write_json(tmp_path / "results.json", results.to_json())
    assert (tmp_path / "results.json").read_bytes() == saved.read_bytes()


def test_the_config_is_read_and_keeps_its_hash(folder):
    config = recipes.read_json(folder / "run" / "config.json")
    saved = json.loads((folder / "run" / "results.json").read_text())
    assert (config.data.modality, config.method.name) == ("image", "simclr")
    assert recipes.config_hash(config) == saved["config_hash"]


@pytest.mark.slow
def test_an_evaluation_of_the_checkpoint_gives_the_same_metrics(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    saved = Results.from_json(json.loads((run / "results.json").read_text()))
    found = cssl_jax.evaluate_run(run, ["knn"])
    assert found.step == saved.step
    # Another processor rounds features differently: of 359 images two may change sides.
    assert found.knn.top1 == pytest.approx(saved.knn.top1, abs=2.5 / 359)
    pixels = found.baselines["pixels"].knn.top1
    assert pixels == pytest.approx(saved.baselines["pixels"].knn.top1, abs=2.5 / 359)


def test_a_finished_run_is_not_trained_again(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    results = cssl_jax.pretrain(recipes.read_json(run / "config.json"), run)
    assert results.to_json() == json.loads((folder / "run" / "results.json").read_text())
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_is_resumed_from_its_checkpoint_with_the_same_losses(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / str(LAST))
    (run / "results.json").unlink()
    results = cssl_jax.pretrain(recipes.read_json(run / "config.json"), run)
    assert results.step == LAST
    expected, found = lines(folder / "run"), lines(run)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for name in ("loss", "gradient_norm"):
        # Float32 on another processor: five steps multiply rounding errors of 1e-7.
        np.testing.assert_allclose(
            [line[name] for line in found if name in line],
            [line[name] for line in expected if name in line],
            rtol=1e-3,
        )


def test_a_report_shows_the_metrics_of_the_run_and_of_its_own_report(folder, tmp_path):
    saved = Results.from_json(json.loads((folder / "run" / "results.json").read_text()))
    page = tmp_path / "report.html"
    cssl_jax.write_report([folder / "run"], output=page, images=0, figures=False)
    accuracy = f"{100 * saved.linear.top1:.1f}"
    assert accuracy in page.read_text()
    assert accuracy in (folder / "run" / "report.html").read_text()


def test_a_sweep_is_read_and_reported(folder, tmp_path):
    sweep = read_sweep(folder / "sweep")
    assert len(sweep.trials) == 2
    copy = shutil.copytree(folder / "sweep", tmp_path / "sweep")
    cssl_jax.write_sweep_report(copy, figures=False)
    assert "learning_rate" in (copy / "report.html").read_text()
