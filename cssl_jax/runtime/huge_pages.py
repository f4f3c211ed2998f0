"""Requests huge pages for the command's memory: steps on a CPU become 10 to 30 % faster.

In every step XLA allocates the memory of temporaries again from the C library. The first access to
each page of 4 KiB costs about a microsecond, a tenth of a second for 500 MB. With pages of 2 MiB
this cost disappears (docs/performance.md).
"""

import os
import pathlib
import signal
import sys

VARIABLE, OPTION = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask() -> None:
    """Restarts the command with huge pages if the system provides them on request.

    The C library reads the option before Python starts, so the process replaces itself by the same
    command. If the user has set the variable, even to an empty value, nothing changes. SIGINT is
    blocked until ``allow_interrupts``.
    """
    if VARIABLE in os.environ or not _is_command(sys.orig_argv) or not on_request():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ[VARIABLE] = OPTION
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:
        allow_interrupts()  # the command continues without huge pages


def allow_interrupts() -> None:
    """Unblocks SIGINT; one that arrived during the restart is delivered now."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def on_request() -> bool:
    """Whether this Linux gives huge pages to processes that request them (setting madvise)."""
    try:
        return "[madvise]" in _SETTING.read_text()
    except OSError:
        return False


def _is_command(argv: list[str]) -> bool:
    """Whether the process was started as cssl-jax, and not as a program that calls it."""
    return argv[1:3] == ["-m", "cssl_jax"] or pathlib.Path(*argv[1:2]).name == "cssl-jax"
