"""Signals to a run that was started as a person starts it."""

import signal
import time

import pytest

from helpers import kills
from helpers.method_cases import CASES


@pytest.mark.slow
def test_a_run_killed_five_times_ends_with_the_same_bits(tmp_path):
    report = kills.torture(tmp_path, kills=5, epochs=10)
    assert report["kills"] == 5
    # A save every 30 steps, written while the next steps run; a line every 3 steps.
    assert report["most logged steps lost by a kill"] <= 2 * 30 + 3


# A copy alone, and copies with queues. Methods without state resume as SimCLR does, and every
# method is stopped within an epoch in test_method_runs.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "moco_v2"])
def test_a_methods_run_killed_three_times_ends_with_the_same_bits(tmp_path, name):
    words = ["--method.name", name, "--model.projector-hidden", "32", "--model.projector-dim", "16"]
    if CASES[name].predicts:
        words += ["--method.predictor-hidden", "32"]
    if CASES[name].queues:
        words += ["--method.queue", "2048"]  # full after 32 of 154 steps
    report = kills.torture(tmp_path, kills=3, epochs=7, words=words)
    assert report["kills"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_process_with_75_in_time(tmp_path, number):
    run = tmp_path / "run"
    process = kills.start(run, epochs=60)
    kills.wait(process, lambda: kills.steps_logged(run) > 6)
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert time.monotonic() - begun < 15  # docs/robustness.md
    assert f"{number.name} at step" in errors
    assert kills.newest(run) > 6
