import pathlib
import stat
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "find_python.sh"


@pytest.fixture
def find(tmp_path):
    """Runs the script with nothing on the PATH but what a test puts there."""
    (tmp_path / "bin").mkdir()

    def program(name, body):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(*arguments):
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), *arguments],
            env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "PYENV_ROOT": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    run.program = program
    return run


WORKS = f'exec "{sys.executable}" "$@"'
TOO_OLD = 'case "$*" in *version_info*) exit 1;; esac'
SHIM = 'echo "pyenv: $0: command not found" >&2; exit 127'


def test_python3_comes_first_where_it_is_new_enough(find):
    find.program("python3", WORKS)
    find.program("python3.13", WORKS)
    assert find().stdout.strip() == "python3"


@pytest.mark.parametrize("python3", [TOO_OLD, SHIM])
def test_the_newest_that_really_runs_replaces_an_old_or_broken_python3(find, python3):
    find.program("python3", python3)
    find.program("python3.13", SHIM)
    find.program("python3.12", WORKS)
    find.program("python3.11", WORKS)
    assert find().stdout.strip() == "python3.12"


def test_a_named_interpreter_is_the_only_one_tried(find):
    find.program("python3", WORKS)
    find.program("mine", WORKS)
    find.program("broken", SHIM)
    assert find("mine").stdout.strip() == "mine"
    refused = find("broken")
    assert refused.returncode == 1
    assert "PYTHON=broken is not a Python of 3.11 or newer that runs" in refused.stderr


def test_a_newer_one_can_be_asked_for(find):
    find.program("python3", WORKS)
    find.program("python3.11", WORKS)
    assert find("", "12").returncode == 1
    find.program("python3.12", WORKS if sys.version_info >= (3, 12) else "exit 0")
    assert find("", "12").stdout.strip() == "python3.12"


def test_without_any_the_way_out_is_named(find):
    refused = find()
    assert refused.returncode == 1
    assert "make PYTHON=/path/to/python3" in refused.stderr
