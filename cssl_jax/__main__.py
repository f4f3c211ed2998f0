"""Entry point of ``cssl-jax`` and ``python -m cssl_jax``; handles Ctrl-C from the start.

The module imports nothing large at its top. Importing JAX and TensorFlow takes seconds, in which an
exception raised by a signal causes long tracebacks or crashes an extension module.
"""

import atexit
import os
import signal
import sys
import types

from cssl_jax.runtime import huge_pages

INTERRUPTED = 128 + signal.SIGINT  # exit status that shells report for SIGINT


class _Interrupts:
    """Handler of SIGINT: raises KeyboardInterrupt if that is safe, else exits the process.

    Attributes:
        is_interrupted: Whether a KeyboardInterrupt has been raised; a second SIGINT exits at once.
    """

    is_interrupted = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        if self.is_interrupted or _is_importing(frame):
            _exit()
        self.is_interrupted = True
        raise KeyboardInterrupt

    def unraisable(self, hook: "sys.UnraisableHookArgs") -> None:
        """Exits if KeyboardInterrupt was raised in a destructor, which discards exceptions."""
        if issubclass(hook.exc_type, KeyboardInterrupt):
            _exit()
        sys.__unraisablehook__(hook)


def main() -> int:
    """Runs the command line and returns its exit status, see ``cli.main.main``.

    An interrupt exits without the interpreter's shutdown, during which threads of JAX or TensorFlow
    may still run. After the last exit function Python no longer calls signal handlers. An interrupt
    is then ignored, since the command has finished.
    """
    huge_pages.ask()
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # registered first, so run last
    interrupts = _Interrupts()
    signal.signal(signal.SIGINT, interrupts)
    huge_pages.allow_interrupts()
    sys.unraisablehook = interrupts.unraisable
    try:
        from cssl_jax.cli.main import main as run

        status = run()
        sys.stdout.flush()
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        _discard_output()
        return 1
    except SystemExit:
        if interrupts.is_interrupted:
            _exit()
        _flush_or_discard()
        raise
    except BaseException:  # KeyboardInterrupt, or an error that a library raised from it
        if interrupts.is_interrupted:
            _exit()
        raise
    if interrupts.is_interrupted or status == INTERRUPTED:
        _exit(is_reported=status == INTERRUPTED)
    return status


def _flush_or_discard() -> None:
    """Writes what was printed, unless the reader has closed the pipe."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    """Discards what is still printed: the interpreter would report the closed pipe as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_importing(frame: types.FrameType | None) -> bool:
    """Whether a frame is inside an import, in which an exception may crash extension modules."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _exit(*, is_reported: bool = False) -> None:
    """Exits with ``INTERRUPTED`` at once, after a message unless it was already printed."""
    if not is_reported:
        os.write(2, b"cssl-jax: interrupted\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the reader has closed the pipe, or the signal interrupted a write
            continue
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
