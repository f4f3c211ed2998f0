"""Pretraining and evaluation in two processes: one run, whatever happens to one of them."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from helpers import multiprocess, tiny

pytestmark = pytest.mark.slow
# What a sum rounds in another order: Gloo's over two processes, XLA's over two devices of one.
BOUND = 1e-5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    source = tiny.image_source(60)
    np.savez(folder / "images.npz", images=source.images, labels=source.labels)
    config = tiny.config(epochs=8, checkpoint_every=0, checkpoint_steps=4, evaluate_every=4)
    config = tiny.replace(config, "train", record_views=True, tensorboard=False)
    config = tiny.replace(config, "model", encoder="linear")  # most of a start is tracing
    config = tiny.replace(config, "augment", jitter=(0.0,), blur=(0.0,), solarize=(0.0,))
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16, probe_seeds=1, draws=2)
    config = tiny.replace(config, "evaluate", l2_values=(0.1,), online_l2_values=(0.1,))
    config = tiny.replace(config, "data", source=str(folder / "images.npz"))
    path = folder / "recipe.json"
    path.write_text(recipes.to_json(config))
    return path


def pretrain(recipe, run):
    return ["pretrain", str(recipe), "--workdir", str(run)]


MARK = "-- evaluate"
# Both commands in one pair of processes; the second changes the run, so that it is copied before.
PRETRAIN_AND_EVALUATE = f"""
import shutil, sys
import jax
from helpers import tiny
from cssl_jax.cli.main import main
*joining, recipe, run, kept, output = sys.argv[1:]
assert main([*joining, "pretrain", recipe, "--workdir", run]) == 0
if jax.process_index() == 0:
    shutil.copytree(run, kept)
print("{MARK}", flush=True)
sys.exit(main([*joining, "evaluate", run, "--json", output]))
"""


@pytest.fixture(scope="module")
def pair(recipe, tmp_path_factory):
    """(run of two processes, their evaluation of it, what each printed during the two)."""
    root = tmp_path_factory.mktemp("runs")
    words = [str(path) for path in (recipe, root / "run", root / "two", root / "two.json")]
    ends = multiprocess.run(PRETRAIN_AND_EVALUATE, words, 2)
    assert [end.status for end in ends] == [0, 0], ends
    return root / "two", root / "two.json", [end.out.split(MARK) for end in ends]


@pytest.fixture(scope="module")
def two(pair):
    return pair[0]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(run, whole):
    for name in ("metrics.jsonl", "results.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert digests(run) == digests(whole)


def digests(run):
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    (meta,) = (run / "checkpoints" / str(newest) / "meta").glob("metadata")
    return newest, json.loads(meta.read_text())["digests"]


def test_two_processes_write_what_one_with_as_many_devices_does(recipe, pair, tmp_path):
    whole, one = pair[0], tmp_path / "one"
    assert cli.main([*pretrain(recipe, one), "--runtime.devices", "2"]) == 0
    mine, theirs = lines(whole), lines(one)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    assert len(mine) == 24 + 2  # a line for each step and each evaluation: no process repeats one
    for ours, other in zip(mine, theirs, strict=True):
        assert ours.keys() == other.keys()
        for name, value in other.items():
            assert ours[name] == pytest.approx(value, rel=BOUND, abs=BOUND), (other["step"], name)
    assert names(whole) == names(one)
    assert names(whole / "views") == names(one / "views")
    first, second = (out for out, _ in pair[2])
    assert "trained encoder" in first
    assert "trained encoder" not in second


def test_two_processes_evaluate_as_one_does(pair, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pair[0], run)
    assert cli.main(["evaluate", str(run), "--json", str(tmp_path / "one.json")]) == 0
    assert sum("few labels" in out for _, out in pair[2]) == 1
    assert (tmp_path / "one.json").read_bytes() == pair[1].read_bytes()


def steps_written(run):
    try:
        return len((run / "metrics.jsonl").read_text().splitlines())
    except OSError:
        return 0


def interrupt(recipe, run, number, rank, after):
    children = multiprocess.start(multiprocess.CLI, pretrain(recipe, run), 2)
    end = time.monotonic() + 120
    while steps_written(run) < after and time.monotonic() < end:
        assert all(child.poll() is None for child in children)
        time.sleep(0.005)
    children[rank].send_signal(number)
    return multiprocess.ends(children, timeout=100)


def test_killed_interrupted_and_damaged_the_two_resume_to_the_same_bits(recipe, two, tmp_path):
    run = tmp_path / "run"
    killed = interrupt(recipe, run, signal.SIGKILL, rank=1, after=5)
    assert killed[1].status == -signal.SIGKILL
    assert killed[0].status == 1
    assert "another process of this run is gone" in killed[0].err
    assert "start all processes again to continue" in killed[0].err
    stopped = interrupt(recipe, run, signal.SIGTERM, rank=1, after=9)
    assert [end.status for end in stopped] == [75, 75], stopped
    assert "a signal to another process at step" in stopped[0].err
    assert "SIGTERM at step" in stopped[1].err
    # Process 0 takes the runtime's coordinator along: JAX itself then ends the others.
    first = interrupt(recipe, run, signal.SIGKILL, rank=0, after=13)
    assert first[1].status != 0
    assert "another process of this run is gone" in first[1].err or "another task died" in (
        first[1].err
    )
    damaged, _ = digests(run)
    for path in (run / "checkpoints" / str(damaged) / "model").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    ends = multiprocess.run(multiprocess.CLI, pretrain(recipe, run), 2)
    assert [end.status for end in ends] == [0, 0], ends
    assert f"checkpoint of step {damaged} is damaged" in ends[0].err
    assert [path.name for path in (run / "damaged").iterdir()] == [str(damaged)]
    assert_same_bits(run, two)


def test_processes_that_differ_are_refused_with_the_difference(recipe, tmp_path):
    run = tmp_path / "run"
    ends = multiprocess.run(
        multiprocess.CLI, pretrain(recipe, run), 2, of_rank={1: ["--train.seed", "5"]}
    )
    assert [end.status for end in ends] == [2, 2]
    for end in ends:
        assert "the processes of this run differ" in end.err
        assert "train.seed: 0 in process 0" in end.err
        assert "5 in process 1" in end.err
    assert not run.exists()


def unshared(script):
    """Words that run a command where ``script`` has changed what is mounted."""
    words = ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    return words


def test_another_data_set_and_a_folder_that_is_not_shared_are_reported(recipe, tmp_path):
    source = json.loads(recipe.read_text())["data"]["source"]
    changed = tiny.image_source(60, seed=1)
    other = tmp_path / "other.npz"
    np.savez(other, images=changed.images, labels=changed.labels)
    runs = tmp_path / "runs"
    runs.mkdir()
    ends = multiprocess.run(
        multiprocess.CLI,
        pretrain(recipe, runs / "a"),
        2,
        before={1: unshared(f"mount --bind {other} {source}")},
    )
    assert [end.status for end in ends] == [2, 2], ends
    assert all("train images: " in end.err for end in ends)
    ends = multiprocess.run(
        multiprocess.CLI,
        pretrain(recipe, runs / "a"),
        2,
        before={1: unshared(f"mount -t tmpfs tmpfs {runs}")},
    )
    assert [end.status for end in ends] == [2, 2], ends
    said = f"{runs / 'a' / 'config.json'}, which process 0 wrote, is not here"
    assert said in ends[1].err
    assert "process 1 (" in ends[0].err
    assert said in ends[0].err


def test_a_peer_that_does_not_come_is_an_error_in_time(recipe, tmp_path):
    begun = time.monotonic()
    words = ["--coordinator", f"127.0.0.1:{multiprocess.free_port()}", "--num-processes=2"]
    words += ["--process-id", "0", "--timeout", "5", *pretrain(recipe, tmp_path / "run")]
    (end,) = multiprocess.run(multiprocess.CLI, words, 1)
    assert end.status == 2
    assert "process 0 of 2 waited 5 s for its peers at 127.0.0.1:" in end.err
    assert time.monotonic() - begun < 60


SLURM = """
import jax
from cssl_jax.runtime import distributed, multihost
distributed.start(timeout=60)
print(jax.process_count(), multihost.gather(jax.process_index()), flush=True)
"""


def test_slurms_tasks_find_one_another():
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    children = [
        subprocess.Popen(
            [multiprocess.sys.executable, "-c", SLURM],
            env=multiprocess.environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = multiprocess.ends(children)
    assert [end.status for end in ends] == [0, 0], ends
    assert all("2 [0, 1]" in end.out for end in ends)
