"""The command asks the C library for huge pages, once and only as the command."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cssl_jax.runtime import huge_pages

TOLD = "import os, sys; print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])"
# A system that gives huge pages on request, whatever this one does.
BEGIN = (
    "from cssl_jax.runtime import huge_pages\n"
    "huge_pages.on_request = lambda: True\n"
    "huge_pages.ask()\n"
)


def started(script, *words, **environment):
    """What a script of that name in a folder of its own prints; it calls ``ask`` first."""
    kept = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    return subprocess.run(
        [sys.executable, script, *words],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def script(tmp_path):
    def make(name):
        path = tmp_path / name
        path.write_text(f"{BEGIN}{TOLD}\n")
        return path

    return make


def test_the_command_begins_anew_with_the_same_words(script):
    words = ["pretrain", "two words", ""]
    assert started(script("cssl-jax"), *words) == f"{huge_pages.OPTION} {words}\n"


@pytest.mark.parametrize("value", ["", "glibc.malloc.arena_max=1"])
def test_what_the_user_has_set_stays(script, value):
    assert started(script("cssl-jax"), GLIBC_TUNABLES=value) == f"{value} []\n"


def test_a_program_that_calls_the_command_is_not_started_again(script):
    assert started(script("train.py")) == "None []\n"


@pytest.mark.parametrize("text", ["always [madvise] never", "[always] madvise never", None])
def test_only_a_system_that_gives_them_on_request_is_asked(tmp_path, monkeypatch, text):
    setting = tmp_path / "enabled"
    if text is not None:
        setting.write_text(text)
    monkeypatch.setattr(huge_pages, "_SETTING", pathlib.Path(setting))
    assert huge_pages.on_request() is (text == "always [madvise] never")


def test_an_interrupt_between_the_two_starts_waits_for_the_handler(script):
    path = script("cssl-jax")
    path.write_text(
        f"import os, signal\n{BEGIN}"
        "signal.signal(signal.SIGINT, lambda *_: print('answered', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('waits', flush=True)\n"
        "huge_pages.allow_interrupts()\n"
    )
    assert started(path) == "waits\nanswered\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
