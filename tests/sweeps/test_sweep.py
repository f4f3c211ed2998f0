"""Sweeps of real runs: complete, pruned, failed, killed and resumed trials."""

import csv
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import FOLDER
from cssl_jax.errors import InterruptedRunError, RunError, StoppedRunError, UserError
from cssl_jax.experiment import data_splits
from cssl_jax.report.run_reader import open_run
from cssl_jax.sweeps.sweep import sweep
from cssl_jax.sweeps.sweep_report import write_report
from cssl_jax.train.hooks import Hook
from cssl_jax.train.pretrain import pretrain
from helpers import kills, tiny

optuna = pytest.importorskip("optuna")
HEAD = '"""A space."""\n\n\ndef space(trial):\n    return {'
# A learning rate of 1e30 makes the loss non-finite; with 0 nothing is learnt.
RATES = "[0.0, 1e-3, 5e-3, 2e-2, 1e-1, 1e30]"
MIXED = HEAD + f'"optimizer.learning_rate": trial.suggest_categorical("lr", {RATES})}}\n'
CALM = HEAD + '"method.temperature": trial.suggest_float("tau", 0.1, 0.5)}\n'


def write(path, text):
    path.write_text(text)
    return path


def configured(folder, **train):
    rng = np.random.default_rng(0)  # class brightness is barely above the noise: scores differ
    labels = rng.integers(0, 3, 96)
    images = rng.integers(0, 200, (96, 8, 8, 1)) + 8 * labels[:, None, None, None]
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    config = tiny.config(**{"epochs": 3, "evaluate_every": 1, "tensorboard": False, **train})
    config = tiny.replace(config, "model", encoder="linear")  # most of a trial is tracing
    config = tiny.replace(config, "augment", blur=(0.0,), solarize=(0.0,), jitter=(0.0,))
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    config = tiny.replace(config, "evaluate", l2_values=(0.1,), online_l2_values=(0.1,), draws=2)
    data = {"source": str(folder / "images.npz"), "validation_fraction": 0.4, "size": 8}
    return tiny.replace(config, "data", **data)


def indivisible(folder):
    """A config for 8 devices; a batch of 30 does not divide over them."""
    return tiny.replace(configured(folder), "runtime", devices=8)


def plain(sweep):
    return [(t.number, t.state, t.params, t.curve, t.reported) for t in sweep.trials]


def test_failures_are_recorded_with_their_message_and_the_sweep_continues(tmp_path):
    space = write(
        tmp_path / "space.py",
        HEAD + '"train.batch_size": trial.suggest_categorical("n", [30, 50000])}\n',
    )
    with pytest.raises(RunError, match="none of 4 trials was completed"):
        sweep(indivisible(tmp_path), tmp_path / "sweep", space, trials=4)
    with (tmp_path / "sweep" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["failed"] * 4
    reasons = {"30": "does not divide over 8 devices", "50000": "does not fit"}
    assert all(reasons[row["n"]] in row["message"] for row in rows)
    # A second command with trials=5 keeps the 4 trials and adds one.
    with pytest.raises(RunError, match="none of 5"):
        sweep(indivisible(tmp_path), tmp_path / "sweep", space, trials=5)


def test_a_sweep_does_not_resume_with_a_changed_recipe_or_space(tmp_path):
    space = write(
        tmp_path / "space.py", HEAD + '"train.batch_size": trial.suggest_int("n", 30, 31)}\n'
    )
    config = indivisible(tmp_path)
    with pytest.raises(RunError):
        sweep(config, tmp_path / "sweep", space, trials=1)
    with pytest.raises(UserError, match=r"train\.epochs: 3 -> 4"):
        sweep(tiny.replace(config, "train", epochs=4), tmp_path / "sweep", space, trials=1)
    write(space, CALM)
    with pytest.raises(UserError, match="its previous text is in"):
        sweep(config, tmp_path / "sweep", space, trials=1)
    with pytest.raises(UserError, match="holds no sweep"):
        sweep(config, tmp_path, space, trials=1)


@pytest.mark.slow
def test_a_stopped_run_is_saved_and_resumes_to_the_same_bits(tmp_path):
    config, watched = configured(tmp_path), []

    class Watch(Hook):
        def after_save(self, run, scores):
            if scores:
                watched.append((run.epoch, scores["knn.selection_top1"]))
            if run.epoch == 2:
                raise StoppedRunError("enough")

    with pytest.raises(StoppedRunError, match="enough"):
        pretrain(config, tmp_path / "run", hooks=[Watch()])
    online = open_run(tmp_path / "run").online
    assert watched == [(round(line["epoch"]), line["knn.selection_top1"]) for line in online]
    assert [epoch for epoch, _ in watched] == [1, 2]
    assert max(int(p.name) for p in (tmp_path / "run" / FOLDER).glob("[0-9]*")) == 6
    pretrain(config, tmp_path / "run")
    pretrain(config, tmp_path / "whole")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_sweep_prunes_by_the_median_and_is_reproducible(tmp_path):
    config, space = configured(tmp_path), write(tmp_path / "space.py", MIXED)
    first = sweep(config, tmp_path / "first", space, trials=10, sampler="random")
    assert {t.state for t in first.trials} == {"complete", "pruned", "failed"}
    curves = {}
    for trial in sorted(first.trials, key=lambda t: t.number):
        run = tmp_path / "first" / trial.run
        if trial.state == "failed":
            assert trial.params["lr"] == 1e30
            assert "loss is nan" in trial.message
            continue
        lines = open_run(run).online
        assert trial.curve == tuple(
            (round(line["epoch"]), line["knn.selection_top1"]) for line in lines
        )
        # The median rule (Golovin et al., KDD 2017), by hand; it needs five complete trials.
        complete = [curve for curve in curves.values() if 3 in dict(curve)]
        for epoch in (1, 2):
            best = max(score for scored, score in trial.curve if scored <= epoch)
            others = [dict(curve)[epoch] for curve in complete]
            worse = len(complete) >= 5 and best < statistics.median(others)
            assert worse == (trial.state == "pruned" and epoch == trial.curve[-1][0])
            if worse:
                break
        curves[trial.number] = trial.curve
        results = json.loads((run / "results.json").read_text()) if len(trial.curve) == 3 else None
        assert (trial.state == "complete") == (results is not None)
        if results is not None:
            assert trial.reported["kNN top-1"] == results["best"]["knn"]["top1"]
            assert first.images == (results["selection"]["images"], results["best"]["images"])
    assert first.best.score == max(max(dict(c).values()) for c in curves.values() if len(c) == 3)
    assert recipes.read_json(tmp_path / "first" / first.best.run / "config.json").train.epochs == 3

    second = sweep(config, tmp_path / "second", space, trials=10, sampler="random")
    assert plain(second) == plain(first)
    assert write_report(tmp_path / "first", figures=False).is_file()


# ---------------------------------------------------------------------------------------- signals


ARGUMENTS = [
    *("sweep", "debug", "--model.encoder", tiny.LINEAR_FILE),
    *("--runtime.devices", "1", "--train.log-every", "3", "--train.no-tensorboard"),
    *("--train.checkpoint-steps", "15", "--train.checkpoint-every", "0"),
    *("--train.epochs", "4", "--train.evaluate-every", "2"),  # 22 steps each
    *("--evaluate.l2-values", "0.1", "--evaluate.online-l2-values", "0.1"),
    *("--evaluate.draws", "2", "--trials", "2", "--no-figures"),
]


def start(folder, space):
    command = [sys.executable, "-m", "cssl_jax", *ARGUMENTS]
    command += ["--space", str(space), "--workdir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def trials_of(folder):
    return json.loads((folder / "trials.json").read_text())["trials"]


def finish(folder, space):
    process = start(folder, space)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_killed_and_interrupted_sweep_ends_as_an_uninterrupted_one(tmp_path):
    space = write(tmp_path / "space.py", CALM)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, space)

    process = start(killed, space)
    first = killed / "trials" / "0000"
    kills.wait(process, lambda: kills.newest(first) > 0 and kills.steps_logged(first) > 20)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert kills.newest(first) > 0
    assert [t["state"] for t in trials_of(killed)] in ([], ["running"])

    process = start(killed, space)
    second = killed / "trials" / "0001"
    kills.wait(process, lambda: kills.steps_logged(second) > 20)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert time.monotonic() - sent < 15
    assert "trial 1: SIGTERM at step" in errors
    assert "resumed at step" in errors  # trial 0 resumed from its checkpoint
    finish(killed, space)
    assert trials_of(killed) == trials_of(whole)
    assert [t["number"] for t in sorted(trials_of(killed), key=lambda t: t["number"])] == [0, 1]
    for number in range(2):
        for name in ("metrics.jsonl", "results.json", "config.json"):
            ours = killed / "trials" / f"{number:04}" / name
            assert ours.read_bytes() == (whole / "trials" / ours.parent.name / name).read_bytes()
    shutil.rmtree(whole)


def test_a_signal_before_the_first_trial_interrupts_and_leaves_no_folder(tmp_path, monkeypatch):
    def slow(config):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal did not interrupt the call")

    monkeypatch.setattr(data_splits, "load_data", slow)
    with pytest.raises(InterruptedRunError, match="SIGTERM before the first trial"):
        sweep(configured(tmp_path), tmp_path / "sweep", write(tmp_path / "space.py", CALM))
    assert not (tmp_path / "sweep").exists()
