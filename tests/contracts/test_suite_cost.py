"""What a run of the suite costs is counted, and growth and leftovers are found."""

import json
import subprocess
import sys
import types

import jax
import numpy as np

from helpers import cost, leftovers, order


def costs(cpu, children=0.0, programs=0):
    return {"cpu": cpu, "children": children, "programs": programs, "cached": 0}


def test_the_costs_of_a_files_tests_add_up():
    tests = {
        "a.py::one": costs(1.0, 2.0, 3),
        "a.py::two[x::y]": costs(4.0),
        "b.py::one": costs(5.0),
    }
    files = cost.by_file(tests)
    assert files.keys() == {"a.py", "b.py"}
    assert cost.seconds(files["a.py"]) == 7.0
    assert files["a.py"]["programs"] == 3


def test_a_suite_that_has_grown_is_reported_by_file_and_limit():
    small = {"a.py": costs(1.0, programs=cost.FILE_PROGRAMS)}
    large = {"a.py": costs(1.0, programs=cost.FILE_PROGRAMS + 1)}
    assert cost.excesses(costs(1.0, programs=cost.PROGRAMS), small) == []
    (whole,) = cost.excesses(costs(1.0, programs=cost.PROGRAMS + 1), small)
    assert whole.startswith(f"{cost.PROGRAMS + 1} compiled programs in all")
    (programs,) = cost.excesses(costs(1.0), large)
    assert programs.startswith(f"a.py: {cost.FILE_PROGRAMS + 1} compiled programs")


def test_files_that_took_longest_come_first_with_their_tests_in_order(tmp_path):
    names = ["a.py::1", "a.py::2", "b.py::x", "new.py::1", "c.py::1"]
    items = [types.SimpleNamespace(nodeid=name) for name in names]
    (tmp_path / "seconds.json").write_text(json.dumps({"a.py": 1.0, "b.py": 2.0, "c.py": 99.0}))
    found = order.longest_first(items, order.read(tmp_path / "seconds.json"))
    assert [item.nodeid for item in found] == [
        *["c.py::1", "new.py::1", "b.py::x", "a.py::1", "a.py::2"]
    ]
    (tmp_path / "broken.json").write_text("{")
    assert order.read(tmp_path / "broken.json") == order.read(tmp_path / "none.json") == {}


def test_programs_and_the_cpu_time_of_children_are_measured():
    meter = cost.Meter()
    before = meter.read()
    jax.jit(lambda x: 3 * x + len("a program of this test alone"))(np.arange(7))
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    after = meter.read()
    assert after["programs"] == before["programs"] + 1
    assert 0.01 < after["children"] - before["children"] < 10


def test_files_that_were_not_there_before_are_found(tmp_path):
    for name in ("src", "src/__pycache__", ".venv"):
        (tmp_path / name).mkdir()
    before = leftovers.listing(tmp_path)
    for name in ("src/new.txt", "src/__pycache__/new.pyc", ".venv/new.txt"):
        (tmp_path / name).touch()
    assert leftovers.listing(tmp_path) - before == {"src/new.txt"}
