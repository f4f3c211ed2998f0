"""Options before the command that connect several processes of one run."""

from collections.abc import Callable
from typing import Any

from cssl_jax.errors import UserError

HELP = """\
Several processes share a run under JAX's distributed runtime. Under Slurm, Open
MPI, on TPU pods and on GKE they connect by themselves; elsewhere give each,
before the command:
  cssl-jax --coordinator HOST:PORT --num-processes N --process-id I pretrain ...
and optionally --timeout SECONDS, the maximum wait for the others (300)."""
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "--coordinator": str,
    "--num-processes": int,
    "--process-id": int,
    "--timeout": float,
}


def options(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(arguments of ``distributed.start``, the arguments from the command on).

    Raises:
        UserError: A value is missing, or is not a number.
    """
    given: dict[str, Any] = {}
    while argv and (word := argv[0].partition("="))[0] in _OPTIONS:
        name, equals, value = word
        if not equals:
            if len(argv) < 2:
                raise UserError(f"{name} needs a value")
            value = argv[1]
        try:
            given[name[2:].replace("-", "_")] = _OPTIONS[name](value)
        except ValueError:
            raise UserError(f"{name} is {value!r}; give a number") from None
        argv = argv[1 if equals else 2 :]
    return given, argv
