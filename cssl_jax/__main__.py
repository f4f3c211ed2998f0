"""The command ``cssl-jax``, also as ``python -m cssl_jax``; answers Ctrl-C from the first instant.

Nothing large is imported at the top: JAX and TensorFlow take seconds, in which an exception that is
raised by a signal ends in long tracebacks or in the crash of an extension module.
"""

import atexit
import os
import signal
import sys
import types
from typing import Any

from cssl_jax.runtime import huge_pages

INTERRUPTED = 128 + signal.SIGINT  # the status that a shell reports


class _Interrupts:
    """The handler of SIGINT: KeyboardInterrupt where that is safe, else the end of the process."""

    came = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        if self.came or _is_importing(frame):
            _leave()
        self.came = True
        raise KeyboardInterrupt

    def unraisable(self, hook: "sys.UnraisableHookArgs") -> None:
        """Ends the process where the exception fell into a destructor, which swallows it."""
        if issubclass(hook.exc_type, KeyboardInterrupt):
            _leave()
        sys.__unraisablehook__(hook)


def main() -> int:
    """Runs the command line; returns the exit status, see ``cli.main.main``.

    An interrupt ends the process without the interpreter's own end, which may meet threads of JAX
    or TensorFlow in the middle of their work. One that comes after the last exit function, when
    Python no longer calls handlers, is ignored: the command has done its work by then.
    """
    huge_pages.ask()
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # registered first, so run last
    interrupts = _Interrupts()
    signal.signal(signal.SIGINT, interrupts)
    huge_pages.allow_interrupts()
    sys.unraisablehook = interrupts.unraisable
    status: Any = None
    try:
        from cssl_jax.cli.main import main as run

        status = run()
    except SystemExit:
        if interrupts.came:
            _leave()
        raise
    except BaseException:  # the interrupt, or what a library made of it
        if interrupts.came:
            _leave()
        raise
    if interrupts.came or status == INTERRUPTED:
        _leave(said=status == INTERRUPTED)
    return status


def _is_importing(frame: types.FrameType | None) -> bool:
    """Whether a signal came while a module was being imported; extension modules may crash then."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(*, said: bool = False) -> None:
    if not said:
        os.write(2, b"cssl-jax: interrupted\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # a reader that is gone, or the write that was interrupted
            continue
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
