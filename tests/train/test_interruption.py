"""Signals, two runs on one folder, full and read-only disks: what is said and what stands."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.checkpoint import checkpoints
from cssl_jax.cli import main as cli
from cssl_jax.data.pipeline import prefetch
from cssl_jax.data.pipeline.array_pipelines import StreamPipeline
from cssl_jax.errors import InterruptedRunError, RunError, UserError
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.train import pretrain as pretrain_module
from cssl_jax.train import run_dir as folder
from cssl_jax.train import trainer
from helpers import tiny
from helpers.stops import AfterStep
from tests.helpers.marks import slow

TOTAL = 9


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    source = tiny.image_source(60)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    config = tiny.config(epochs=3, checkpoint_every=0, evaluate_every=1, record_views=True)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    config = tiny.replace(config, "runtime", devices=1)
    return tiny.replace(config, "data", source=str(path), resident=False)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    cssl_jax.pretrain(config, run)
    return run


def command(config, run):
    recipe = run.with_suffix(".json")
    recipe.write_text(recipes.to_json(config))
    return ["pretrain", str(recipe), "--workdir", str(run)]


def assert_same(run, whole):
    for name in ("metrics.jsonl", "results.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    files = [sorted((folder / "views").iterdir()) for folder in (run, whole)]
    for mine, theirs in zip(*files, strict=True):
        with np.load(mine) as a, np.load(theirs) as b:
            for name in b.files:
                np.testing.assert_array_equal(a[name], b[name])
    parts = [json.loads(next(meta_files(folder)).read_text())["digests"] for folder in (run, whole)]
    assert parts[0] == parts[1]  # every array of the last state, the optimizer's too


def meta_files(run):
    return (run / "checkpoints" / str(TOTAL) / "meta").glob("metadata")


# ---------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_a_signal_between_steps_saves_and_exits_with_75(
    config, whole, tmp_path, monkeypatch, capfd, number
):
    interrupt = AfterStep(4, lambda run: signal.raise_signal(number))
    hooked = functools.partial(pretrain_module.pretrain, hooks=[interrupt])
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_module, "pretrain", hooked)
        assert cli.main(command(config, tmp_path / "run")) == 75
    said = capfd.readouterr().err
    assert said.count("s after the process was started") == 1
    assert f"cssl-jax pretrain: {number.name} at step 4 of 9: saved" in said
    assert "run the same command to resume" in said
    assert cli.main(command(config, tmp_path / "run")) == 0
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, TOTAL])
def test_a_signal_interrupts_an_evaluation_which_is_repeated_on_resume(
    config, whole, tmp_path, monkeypatch, step
):
    evaluate, times = Evaluator.evaluate, []

    def interrupted(self, features, **options):
        times.append(1)
        if len(times) == step // 3:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the evaluation continued")
        return evaluate(self, features, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        with pytest.raises(InterruptedRunError, match=f"SIGTERM at step {step} of 9: saved"):
            cssl_jax.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same(tmp_path / "run", whole)
    assert cssl_jax.load_encoder(tmp_path / "run", checkpoint="best").step == (
        cssl_jax.load_encoder(whole, checkpoint="best").step
    )


@pytest.mark.slow
def test_a_kill_while_the_evaluation_is_repeated_duplicates_no_line(
    config, whole, tmp_path, monkeypatch
):
    def no_more(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            Evaluator, "evaluate", lambda self, *a, **o: signal.raise_signal(signal.SIGTERM)
        )
        with pytest.raises(InterruptedRunError):
            cssl_jax.pretrain(config, tmp_path / "run")
    with monkeypatch.context() as patch:  # its line is written, its checkpoint is not
        patch.setattr(checkpoints.Checkpoints, "replace", no_more)
        with pytest.raises(KeyboardInterrupt):
            cssl_jax.pretrain(config, tmp_path / "run")
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("late", [True, False])  # while it waits, or just before it does
@pytest.mark.parametrize("last", [5, 6])  # 6 was saved, as it was evaluated
def test_a_signal_does_not_wait_for_an_input_that_hangs(
    config, whole, tmp_path, monkeypatch, last, late
):
    host_batches, freed = StreamPipeline.host_batches, threading.Event()
    after, reached = trainer.Trainer._after_step, threading.Event()

    def noted(self):
        metrics = after(self)
        if self._run.step == last:
            reached.set()
            if not late:
                signal.raise_signal(signal.SIGTERM)
        return metrics

    def interrupt():
        reached.wait(60)
        time.sleep(0.3)  # it waits for the next input by now
        if late:
            os.kill(os.getpid(), signal.SIGTERM)

    def hanging(self, start, stop):
        for step, host_batch in enumerate(host_batches(self, start, stop), start):
            if step == last:
                threading.Thread(target=interrupt).start()
                freed.wait(120)
            yield host_batch

    with monkeypatch.context() as patch:
        patch.setattr(prefetch, "HANGING", 0.5)
        patch.setattr(StreamPipeline, "host_batches", hanging)
        patch.setattr(trainer.Trainer, "_after_step", noted)
        begun = time.monotonic()
        with pytest.raises(InterruptedRunError, match=f"SIGTERM at step {last} of 9: saved"):
            cssl_jax.pretrain(config, tmp_path / "run")
        assert time.monotonic() - begun < 90
    freed.set()
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_signal_before_the_first_step_leaves_nothing_to_lose(
    config, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(folder, "begin", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    assert cli.main(command(config, tmp_path / "run")) == 75
    assert "SIGTERM outside the steps: nothing is lost; run the same" in capfd.readouterr().err


def test_a_save_that_fails_is_not_reported_as_saved(config, tmp_path, monkeypatch):
    def fails(self):
        raise self._not_written(OSError(28, "No space left on device"))

    monkeypatch.setattr(checkpoints.Checkpoints, "wait", fails)
    interrupt = AfterStep(1, lambda run: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunError, match="could not be written") as error:
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[interrupt])
    assert not isinstance(error.value, InterruptedRunError)


@pytest.mark.slow
def test_the_clock_saves_between_the_regular_checkpoints(config, whole, tmp_path, monkeypatch):
    often = tiny.replace(config, "train", checkpoint_minutes=1e-9, evaluate_every=1)
    saved = []
    save = checkpoints.Checkpoints.save

    def note(self, state, meta, metrics):
        saved.append(int(state.step))
        save(self, state, meta, metrics)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", note)
    cssl_jax.pretrain(often, tmp_path / "run")
    assert saved == list(range(1, 10))
    assert_same(tmp_path / "run", whole)


# -------------------------------------------------------------------------------------- two runs


def test_two_runs_on_one_folder_are_refused(config, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    with folder.Claim(run):
        assert cli.main(command(config, run)) == 2
    said = capfd.readouterr().err
    assert f"{run} is being written by another run (process {os.getpid()} on " in said
    assert [path.name for path in run.iterdir()] == [".lock"]
    with folder.Claim(run):
        pass  # the refused one holds nothing


HOLD = """
import pathlib, sys, time
from cssl_jax.train.run_dir import Claim
with Claim(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_claim_ends_with_its_process_by_kill_9_too(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"mine\n"
    with pytest.raises(UserError, match=f"another run .process {holder.pid} on "):
        folder.Claim(tmp_path).take()
    holder.kill()
    holder.wait()
    with folder.Claim(tmp_path):
        pass


def test_what_a_killed_writer_left_is_swept(config, tmp_path):
    claim = folder.Claim(tmp_path)
    (tmp_path / "metrics.jsonl.12345.tmp").write_text("half")
    folder.check(tmp_path, config)  # it does not make the folder another's
    (tmp_path / "mine.tmp").write_text("not ours")
    folder.begin(tmp_path, config, claim)
    claim.release()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json", "mine.tmp"}


# ------------------------------------------------------------------------------------------ disks


@contextlib.contextmanager
def disk(place, options):
    """A file system of its own; where mounting is not allowed, the test is skipped."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_a_read_only_folder_is_refused_with_the_way_out(config, tmp_path, capfd):
    with disk(tmp_path / "disk", "size=1m"):
        run = tmp_path / "disk" / "run"
        recipe = command(config, run)
        remount(tmp_path / "disk", "ro")
        assert cli.main(recipe) == 2
    said = capfd.readouterr().err
    assert f"cannot write to {run}: Read-only file system; use another --workdir" in said


def test_a_file_in_the_way_is_refused(config, tmp_path, capfd):
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    with pytest.raises(UserError, match="Not a directory; use another --workdir"):
        cssl_jax.pretrain(config, run)


@pytest.mark.parametrize("size", [slow(24), slow(150), 420, slow(700)])
def test_a_full_disk_ends_the_run_and_space_lets_it_resume(config, whole, tmp_path, capfd, size):
    with disk(tmp_path / "disk", f"size={size}k"):
        run = tmp_path / "disk" / "run"
        recipe = command(config, tmp_path / "run")[1]
        words = ["pretrain", recipe, "--workdir", str(run)]
        status = cli.main(words)
        said = capfd.readouterr().err
        assert status == 1
        assert "No space left" in said or "ENOSPC" in said or "RESOURCE_EXHAUSTED" in said
        assert "run the same command to resume" in said
        remount(tmp_path / "disk", "size=64m")
        assert cli.main(words) == 0
        assert_same(run, whole)


# --------------------------------------------------------------------------------------- replicas


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 4])
def test_a_drifted_replica_ends_the_run_before_it_is_saved(config, tmp_path, every):
    config = tiny.replace(config, "train", check_replicas_every=every)
    config = tiny.replace(config, "runtime", devices=2)

    def drift(run):
        leaves, tree = jax.tree.flatten(run.state)
        at = next(i for i, x in enumerate(leaves) if x.ndim == 4)
        leaf = leaves[at]
        pieces = [shard.data for shard in leaf.addressable_shards]
        pieces[1] = pieces[1].at[0, 0, 0, 0].add(1e-3)
        leaves[at] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, pieces)
        run.state = jax.tree.unflatten(tree, leaves)

    # Found by the next check, or before the checkpoint of step 6 is saved.
    with pytest.raises(RunError, match=r"devices hold different values of \d+ arrays .* at step 6"):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[AfterStep(5, drift)])
    with checkpoints.Checkpoints(tmp_path / "run", read_only=True) as kept:
        assert kept.steps == [3]
