"""Splits a command line into the command's name, its arguments and the options before the name."""

import dataclasses
import difflib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cssl_jax import registries
from cssl_jax.cli import distributed_flags
from cssl_jax.cli.brief_help import asks_for_help
from cssl_jax.cli.registry import COMMANDS, SHARED
from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Call:
    """A command line whose command exists.

    Attributes:
        name: Name of the command, of one or two words.
        argv: Arguments after the name.
        processes: Arguments of ``distributed.start``.
        trust: Context in which the Python files may run that the command line names or allows.
    """

    name: str
    argv: list[str]
    processes: dict[str, Any]
    trust: AbstractContextManager[None]

    @property
    def is_shared(self) -> bool:
        """True if several processes may run the call together."""
        return self.name in SHARED and not asks_for_help(self.argv)


def split(argv: Sequence[str]) -> Call:
    """Finds the command that a command line names.

    Args:
        argv: Words of the command line, at least one.

    Raises:
        UserError: No command has the name, or the command runs in one process only.
    """
    trust, words = _trust(argv)
    processes, words = distributed_flags.options(words)
    if not words:
        raise UserError(f"no command after these options; there are {', '.join(COMMANDS)}")
    name = _name(words)
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}; {_hint(words)}")
    call = Call(name, words[len(name.split()) :], processes, trust)
    if processes and not call.is_shared:
        raise UserError(f"several processes share {', '.join(SHARED)}; start {name} in one")
    return call


def group(argv: Sequence[str]) -> list[str]:
    """Commands of two words if only the first is given: those of "data", not of "recipes"."""
    if not argv or argv[0] in COMMANDS:
        return []
    return [name for name in COMMANDS if name.startswith(argv[0] + " ")]


def _name(words: Sequence[str]) -> str:
    two = " ".join(words[:2])
    return two if two in COMMANDS or group(words) else words[0]


def _hint(words: Sequence[str]) -> str:
    """Advice with the nearest command; names all commands if none is near."""
    two, commands = " ".join(words[:2]), group(words)
    near = difflib.get_close_matches(two, commands or COMMANDS, n=1)
    near = near or commands or difflib.get_close_matches(words[0], COMMANDS, n=1)
    if near:
        return f"did you mean {near[0]!r}? `cssl-jax --help` lists all commands"
    return f"there are {', '.join(COMMANDS)}"


def _trust(argv: Sequence[str]) -> tuple[AbstractContextManager[None], list[str]]:
    """(trust in the code that is named or allowed on the command line, the remaining words)."""
    rest = [word for word in argv if word != "--trust-code"]
    named = [_file_name(word) for word in rest if registries.is_file_name(word)]
    if len(rest) < len(argv):
        return registries.trusting_code(), rest
    return (registries.trusting_code(*named) if named else nullcontext()), rest


def _file_name(word: str) -> str:
    """The value of a word such as "--model.encoder=file.py:NAME"."""
    path, colon, name = word.partition(".py:")
    return path.rpartition("=")[2] + colon + name  # a place in the name may contain "="
