"""Exit status of a command that failed, and the one line that says why."""

import sys

from cssl_jax.cli.registry import COMMANDS
from cssl_jax.errors import InterruptedRunError, RunError, UserError

# The first type that fits decides. 75 is EX_TEMPFAIL of sysexits.h: the same command resumes.
_STATUS = ((UserError, 2), (InterruptedRunError, 75), (RunError, 1))


def report(name: str, error: BaseException) -> int | None:
    """Prints the message of an error with a known cause and returns the exit status.

    Args:
        name: Command as it was typed.
        error: Error that ended the command.

    Returns:
        The exit status; None if the cause is unknown and nothing was printed.
    """
    if isinstance(error, BrokenPipeError):  # a reader such as `head` has closed the pipe
        sys.stderr.close()
        return 1
    status, message = _cause(name, error)
    if status is not None:
        print(f"cssl-jax {name}: {message}", file=sys.stderr)
    return status


def _cause(name: str, error: BaseException) -> tuple[int | None, str]:
    """(exit status, message); (None, "") if the cause is unknown."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"  # 128 + SIGINT, as a shell reports it
    if isinstance(error, OSError):
        where = "" if error.filename is None else f": {error.filename}"
        return 1, f"{error.strerror or error}{where}"
    return _cause_of_libraries(name, error)


def _cause_of_libraries(name: str, error: BaseException) -> tuple[int | None, str]:
    """Exit status and message of JAX's errors: memory that ran out, a platform that is absent."""
    from cssl_jax.planning import exhaustion
    from cssl_jax.runtime import platforms

    if not isinstance(error, (*platforms.FAILURES, MemoryError)):
        return None, ""
    if exhaustion.is_out_of_memory(error):
        return 1, exhaustion.evaluation_message(error, COMMANDS[name].batch_option)
    try:
        platforms.require()
    except UserError as trouble:  # the platform is not available
        return 2, str(trouble)
    return None, ""
