"""The command requests huge pages of the C library: once, and only if it is the command."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cssl_jax.runtime import huge_pages

PRINT = "import os, sys; print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])"
# Assumes a system that gives huge pages on request, whatever the real one does.
START = (
    "from cssl_jax.runtime import huge_pages\n"
    "huge_pages.on_request = lambda: True\n"
    "huge_pages.ask()\n"
)


def output_of(script, *argv, **environment):
    """Standard output of a script that calls ``ask`` first."""
    inherited = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    return subprocess.run(
        [sys.executable, script, *argv],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def script(tmp_path):
    def make(name):
        path = tmp_path / name
        path.write_text(f"{START}{PRINT}\n")
        return path

    return make


def test_the_command_restarts_with_the_same_arguments(script):
    argv = ["pretrain", "two words", ""]
    assert output_of(script("cssl-jax"), *argv) == f"{huge_pages.OPTION} {argv}\n"


@pytest.mark.parametrize("value", ["", "glibc.malloc.arena_max=1"])
def test_a_value_that_the_user_has_set_stays(script, value):
    assert output_of(script("cssl-jax"), GLIBC_TUNABLES=value) == f"{value} []\n"


def test_a_program_that_calls_the_command_is_not_started_again(script):
    assert output_of(script("train.py")) == "None []\n"


@pytest.mark.parametrize("text", ["always [madvise] never", "[always] madvise never", None])
def test_only_the_setting_madvise_counts_as_on_request(tmp_path, monkeypatch, text):
    setting = tmp_path / "enabled"
    if text is not None:
        setting.write_text(text)
    monkeypatch.setattr(huge_pages, "_SETTING", pathlib.Path(setting))
    assert huge_pages.on_request() is (text == "always [madvise] never")


def test_an_interrupt_during_the_restart_waits_for_the_handler(script):
    path = script("cssl-jax")
    path.write_text(
        f"import os, signal\n{START}"
        "signal.signal(signal.SIGINT, lambda *_: print('answered', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('waits', flush=True)\n"
        "huge_pages.allow_interrupts()\n"
    )
    assert output_of(path) == "waits\nanswered\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
