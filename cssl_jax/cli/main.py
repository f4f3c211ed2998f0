"""Entry point of the command line; everything it does can be called from Python."""

import importlib
import io
import logging
import sys
import traceback
from collections.abc import Sequence

from cssl_jax.cli import distributed_flags, exit_status
from cssl_jax.cli.brief_help import asks_for_help
from cssl_jax.cli.call import Call, group, split
from cssl_jax.cli.overview import overview
from cssl_jax.cli.registry import COMMANDS
from cssl_jax.errors import UserError
from cssl_jax.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0: done. 1: a run failed. 2: wrong use. 75: a signal arrived and the progress is saved; the same
    command resumes. 130: interrupted, with nothing to save.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may have no valid encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if text := _information(words):
        print(text)
        return 0 if words and (asks_for_help(words) or words[0] == "--version") else 2
    try:
        call = split(words)
    except UserError as error:
        exit_status.report(words[0], error)
        return 2
    _import_command(call)
    return _run(call)


def _information(words: Sequence[str]) -> str:
    """Text that needs no command: the overview, one group of commands, the version; "" for others.

    JAX is not imported for it.
    """
    if not words or words[0] in ("-h", "--help"):
        return f"{overview(COMMANDS)}\n\n{distributed_flags.HELP}"
    if words[0] == "--version":
        return f"cssl-jax {__version__}"
    if (names := group(words)) and len(words) == 1 + asks_for_help(words):
        return overview(names)
    return ""


def _import_command(call: Call) -> None:
    """Imports the command and the libraries it needs; exits with advice if they are missing."""
    try:
        importlib.import_module("cssl_jax.recipes")  # the config, the methods, JAX and Flax
        _ = COMMANDS[call.name].run
    except (ImportError, RuntimeError) as error:
        from cssl_jax.runtime.doctor import instead_of_commands

        instead_of_commands(error)


def _run(call: Call) -> int:
    """Runs the call. If one of several processes fails, it ends here.

    The interpreter's own exit would wait for the other processes.
    """
    from cssl_jax.runtime import distributed

    try:
        status = _status(call)
    except SystemExit as error:
        distributed.exit_process(error.code if isinstance(error.code, int) else 1)
        raise
    except BaseException as error:
        distributed.exit_process(1, traceback.format_exception(error))
        raise
    distributed.exit_process(status)
    return status


def _status(call: Call) -> int:
    try:
        return _execute(call)
    except (Exception, KeyboardInterrupt) as error:
        status = exit_status.report(call.name, error)
        if status is None:
            raise
        return status


def _execute(call: Call) -> int:
    """Connects the processes of the run, then runs the command."""
    from cssl_jax.runtime import distributed

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's notes do not concern the user
    if call.is_shared:
        distributed.start(**call.processes)
    with call.trust:
        status = COMMANDS[call.name].run(call.argv)
    sys.stdout.flush()  # reports a full disk or a closed pipe here, not at exit
    return status
