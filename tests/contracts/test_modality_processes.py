"""Series, recordings and texts: one run in two processes, and runs that are killed."""

import json

import pytest

from cssl_jax.cli import main as cli
from helpers import kills, modality_runs, multiprocess

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", modality_runs.NAMES)]
# What a sum rounds in another order: Gloo's over two processes, XLA's over two devices of one.
BOUND = 1e-5
# BatchNorm over few examples enlarges that from step to step; `selfcheck` compares it in float64.
SMOOTH = {"audio": ["--model.encoder", "gru"]}


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_compute_what_two_devices_of_one_do(name, tmp_path):
    recipe = modality_runs.write_recipe(name, tmp_path, checkpoint_steps=2)
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["pretrain", str(recipe), *SMOOTH.get(name, [])]
    assert cli.main([*words, "--workdir", str(one)]) == 0
    ends = multiprocess.run(multiprocess.CLI, [*words, "--workdir", str(two)], 2)
    assert [end.status for end in ends] == [0, 0], ends
    ours, theirs = lines(two), lines(one)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert len(ours) > 6  # a line for each step and each evaluation
    for line, other in zip(ours, theirs, strict=True):
        assert line.keys() == other.keys()
        for key, value in other.items():
            assert line[key] == pytest.approx(value, rel=BOUND, abs=BOUND), (other["step"], key)


def test_a_run_killed_three_times_ends_with_the_same_bits(name, tmp_path):
    report = kills.torture(
        tmp_path, kills=3, epochs=10, subject=kills.modality_subject(name, tmp_path)
    )
    assert report["kills"] == 3
