"""The benchmark of the loss: what its JSON holds, and that a contender that dies is no win."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


pytestmark = pytest.mark.slow  # every test reads one run of the benchmark


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(what it printed, its JSON) at sizes that take no time, with a peer that is killed."""
    folder = tmp_path_factory.mktemp("loss")
    killed = folder / "python"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    options = ["--sections", "peers", "--pairs", "64", "128", "--rounds", "1", "--seconds", "0.01"]
    options += ["--contenders", "tiled,jax,lightly", "--peer-python", str(killed)]
    command = [sys.executable, str(BENCHMARKS / "loss.py"), *options, "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "loss.json").read_text())["peers"]


def row(section, pairs, contender):
    (found,) = [r for r in section["rows"] if (r["pairs"], r["contender"]) == (pairs, contender)]
    return found


def test_json_says_what_was_measured_where(ran):
    section = ran[1]
    assert {"command", "date", "machine", "versions", "rows", "ratios", "targets"} <= set(section)
    assert {"python", "jax", "cssl_jax"} <= set(section["versions"])
    assert [(r["pairs"], r["contender"]) for r in section["rows"]] == [
        (pairs, name) for pairs in (64, 128) for name in ("tiled", "jax", "lightly")
    ]


@pytest.mark.parametrize("pairs", [64, 128])
def test_contenders_compute_the_same_and_have_metrics(ran, pairs):
    ours, theirs = (row(ran[1], pairs, name) for name in ("tiled", "jax"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)  # float32 sums of 2N terms
    for found in (ours, theirs):
        assert "failed" not in found
        assert 0 < found["fastest_s"] <= found["time_s"]
        assert found["compile_s"] > 0
        assert found["memory_bytes"] > 0
        assert found["baseline_bytes"] > 50e6  # JAX itself


def test_a_contender_that_dies_is_reported_and_beats_nobody(ran):
    printed, section = ran
    assert row(section, 64, "lightly")["failed"] == "out of memory"
    later = row(section, 128, "lightly")["failed"]
    assert later == "not tried; at 64 pairs: out of memory"
    assert "out of memory" in printed
    against = [r for r in section["ratios"] if r["against"] == "lightly"]
    assert [r["time"] for r in against] == [None, None]
    assert all(t["met"] is None for t in section["targets"] if "lightly" in t["target"])


def test_no_path_of_this_machine_is_in_the_json(ran):
    assert str(BENCHMARKS.parent) not in json.dumps(ran[1])


def test_a_process_that_wants_more_than_it_may_is_out_of_memory():
    from measuring import process

    arguments = {"contender": "jax", "pairs": 64, "seconds": 0.1}
    measure = "loss.contenders.measure"
    found = process.call(measure, memory_limit=0.01, **arguments)
    assert found["failed"].startswith("out of memory")


@pytest.mark.parametrize(
    ("code", "errors", "expected"),
    [
        (1, "RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes", "out of memory"),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you",
         "out of memory"),
        (-11, "", "died of SIGSEGV"),
        (2, "a\nOSError: /home/someone/x.so is broken\n", "exit 2: OSError: x.so is broken"),
    ],
)  # fmt: skip
def test_causes_of_death(code, errors, expected):
    from measuring import process

    assert process.cause(code, errors) == expected


def test_a_verdict_needs_every_metric():
    from measuring.report import target

    assert target("t", [0.1, 0.2], 0.3)["met"] is True
    assert target("t", [0.1, None], 0.3)["met"] is None
    assert target("t", [0.4, None], 0.3)["met"] is False
    assert target("t", [], 0.3)["met"] is None
