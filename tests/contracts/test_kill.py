"""Signals to a run that was started as a person starts it."""

from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from helpers import kills
from helpers.method_cases import CASES


# A run that ends at a person's request returns 75, names the signal and the step, has saved that
# step, and takes no longer than 15 s: `Killer` asserts it of both signals.
@pytest.mark.slow
def test_a_run_killed_five_times_ends_with_the_same_bits(tmp_path):
    # The signals that request an end come first, so that they do not come after the last step.
    moments = [("step", SIGTERM), ("save", SIGINT), ("start", SIGKILL), ("save", SIGKILL)]
    moments += [("step", SIGKILL)]
    report = kills.torture(tmp_path, kills=5, epochs=10, moments=moments)
    assert report["kills"] == 5
    assert report["by request at a step"] == 2
    # A save every 30 steps, written while the next steps run; a line every 3 steps.
    assert report["most logged steps lost by a kill"] <= 2 * 30 + 3


# A copy alone, and copies with queues. Methods without state resume as SimCLR does, and every
# method is stopped within an epoch in test_method_runs.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "moco_v2"])
def test_a_methods_run_killed_twice_ends_with_the_same_bits(tmp_path, name):
    words = ["--method.name", name, "--model.projector-hidden", "32", "--model.projector-dim", "16"]
    if CASES[name].predicts:
        words += ["--method.predictor-hidden", "32"]
    if CASES[name].queues:
        words += ["--method.queue", "2048"]  # full after 32 of 154 steps
    moments = [("step", SIGKILL), ("save", SIGKILL)]
    report = kills.torture(tmp_path, kills=2, epochs=7, words=words, moments=moments)
    assert report["kills"] == 2
