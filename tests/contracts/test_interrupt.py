"""Ctrl-C: one line and status 130, whenever it comes."""

import os
import signal
import subprocess
import sys
import time

import pytest

# The line "up" tells that Python itself has started, which no program can answer for.
START = (
    "import sys; print('up', flush=True); from cssl_jax.__main__ import main; "
    "sys.argv = ['cssl-jax', *sys.argv[1:]]; sys.exit(main())"
)


def interrupted(words, delay, times=1, cwd=None):
    """(status, standard error) of a command, interrupted ``delay`` seconds after its start."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout.readline() == "up\n"
    time.sleep(delay)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.6, 1.0, 1.6, 2.4, 3.5])
def test_an_interrupt_is_one_line_and_status_130_at_any_instant(delay, tmp_path):
    words = ["views", "digits", "--output", "views.png"]
    code, errors = interrupted(words, delay, cwd=tmp_path)
    if code == 0:
        return  # it was done before
    lines = [line for line in errors.splitlines() if line.startswith("cssl-jax")]
    assert code == 130, errors
    assert len(lines) == 1, errors
    assert "interrupted" in lines[0]
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) in ([], ["views.png"])


def test_two_interrupts_are_as_good_as_one(tmp_path):
    words = ["views", "digits", "--output", "views.png"]
    code, errors = interrupted(words, 1.0, times=2, cwd=tmp_path)
    assert code == 130, errors
    assert "Traceback" not in errors


def test_an_interrupt_while_the_interpreter_ends_changes_nothing():
    late = (
        "import os, signal, sys\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):\n"
        "        kill(pid, number)\n"
        "        print('late', flush=True)\n"
        "sys.modules['late'] = Late()\n"
    )
    words = [sys.executable, "-c", late + START, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("late\n")
