"""The accelerator kit: a killed run loses no measurement, and what failed is reported."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def record(tmp_path, seconds=60.0):
    from accelerator.recorder import Recorder

    return Recorder(tmp_path, "losses", time.time() + seconds)


def read(out):
    from accelerator import recorder

    return recorder.read(out / recorder.RESULTS)


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    record(tmp_path).put("first", ms=1.5)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"section": "losses", "fig')
    (line,) = read(tmp_path)
    assert (line["figure"], line["ms"]) == ("first", 1.5)


def test_a_failure_is_a_measurement_and_the_section_continues(tmp_path):
    this = record(tmp_path)
    this.attempt("divides", lambda: 1 / 0)
    this.attempt("works", lambda: this.put("works", ms=2))
    failed, works = read(tmp_path)
    assert failed["failed"] == "ZeroDivisionError: division by zero"
    assert works["ms"] == 2


def test_what_the_time_is_too_short_for_is_skipped_by_name(tmp_path):
    this = record(tmp_path, seconds=2)
    this.attempt("long", lambda: this.put("long", ms=1), seconds=30)
    (line,) = read(tmp_path)
    assert line["figure"] == "long"
    assert "30 are needed" in line["skipped"]


def test_the_float64_loss_and_gradient_are_those_of_finite_differences():
    from accelerator.correctness import nt_xent_float64

    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 3, 4))
    _, gradient = nt_xent_float64(z[0], z[1], 0.5)
    step = 1e-6
    for place in np.ndindex(z.shape):
        moved = np.zeros_like(z)
        moved[place] = step
        above, below = (nt_xent_float64(*(z + sign * moved), 0.5)[0] for sign in (1, -1))
        expected = (above - below) / (2 * step)
        assert gradient.reshape(z.shape)[place] == pytest.approx(expected, abs=1e-8)


def test_kernels_that_overlap_count_once_as_busy_time():
    from accelerator.kernels import _union

    assert _union([(0, 10, "a"), (5, 10, "b"), (20, 5, "a")]) == 20


def test_a_later_success_replaces_a_failure_and_not_the_reverse():
    from accelerator.keep import merged

    def line(**values):
        return {"section": "losses", "figure": "nt_xent", "time": 0.0, **values}

    kept = merged({}, "cpu", [line(failed="no memory")])
    kept = merged(kept, "cpu", [line(ms=3.0)])
    kept = merged(kept, "cpu", [line(skipped="no time")])
    assert kept["sections"]["losses"]["nt_xent"] == {"ms": 3.0, "date": "1970-01-01"}


def test_an_unknown_section_is_refused_with_the_known_ones(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "accelerator" / "run.py"), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--sections", "fact"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'fact' is none of facts, cifar" in done.stderr


@pytest.mark.slow
def test_a_run_killed_at_random_loses_no_line_and_the_next_one_completes(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(BENCHMARKS / "accelerator" / "run.py"), "--small"]
    command += ["--out", str(out), "--sections", "facts,losses"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    first = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while not read(out) and first.poll() is None:
        time.sleep(0.05)
    time.sleep(random.Random(0).uniform(0, 5))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = read(out)
    assert before

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = read(out)
    assert after[: len(before)] == before
    assert [line["ended"] for line in after if "ended" in line][-2:] == ["status 0", "status 0"]
    assert not [line for line in after if "failed" in line]
    figures = {line["figure"] for line in after if "figure" in line}
    assert {"device", "copy", "nt_xent 128 pairs, tile auto"} <= figures
    assert "nt_xent 128 pairs, tile auto" in done.stdout
    assert json.loads((out / "results.jsonl").read_text().splitlines()[-1])
