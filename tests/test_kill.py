"""kill -9 at any instant, on a run started as a person starts it."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import cssl_jax

ARGUMENTS = [
    *("pretrain", "debug", "--model.encoder", "resnet10", "--model.width", "0.0625"),
    *("--train.batch-size", "64", "--train.epochs", "6", "--train.log-every", "3"),
    *("--train.evaluate-every", "2", "--train.checkpoint-every", "1", "--runtime.devices", "1"),
]


def start(folder):
    command = [sys.executable, "-m", "cssl_jax", *ARGUMENTS, "--workdir", str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ}, text=True
    )


def wait_for(process, condition, timeout=240):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_logged(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    assert process.wait(timeout=400) == 0, process.stderr.read()

    # Killed while the first save is under way, between two lines, and in a later epoch.
    moments = [
        lambda: (killed / "checkpoints").exists() and any((killed / "checkpoints").iterdir()),
        lambda: steps_logged(killed) >= 20,
        lambda: steps_logged(killed) >= 33,
    ]
    for moment in moments:
        process = start(killed)
        wait_for(process, moment)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    process = start(killed)
    assert process.wait(timeout=400) == 0, process.stderr.read()

    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    assert results[0] == results[1]
    models = [cssl_jax.load_encoder(folder).model for folder in (whole, killed)]
    jax.tree.map(np.testing.assert_array_equal, *models)
