"""Message for arguments that a command does not take: what was typed and what is accepted.

tyro, which parses the arguments, describes errors in boxes of many lines. This module finds the
errors again in the words and the types of the options, and describes the first in one line.
"""

import difflib
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from cssl_jax.cli.option_types import Option

_NEAR = 3  # maximum number of names that are suggested for an unknown one


def message(options: Iterable[Option], command: str, argv: Sequence[str]) -> str:
    """Describes the first error on one line, and on a second line where the help is.

    Args:
        options: Options of the command.
        command: Name of the command.
        argv: Arguments that the command refused.
    """
    options = list(options)
    first, *others = _Reading(options, argv).errors() or [
        f"the arguments do not fit together: {shlex.join(argv)}"
    ]
    more = f" ({len(others)} more error{'s' * (len(others) > 1)})" if others else ""
    return f"{first}{more}\n`cssl-jax {command} --help` lists the options"


class _Reading:
    """One pass over the arguments of a command, in the order in which tyro takes them."""

    def __init__(self, options: Sequence[Option], argv: Sequence[str]) -> None:
        self.words = deque(argv)
        self.required = [option for option in options if option.is_required]
        self.positional = deque(option for option in options if option.is_positional)
        self.named: dict[str, Option] = {}
        for option in options:
            if not option.is_positional:
                self.named[option.name] = option
                if option.kind is bool:
                    self.named[option.negation] = option
        self.last: Option | None = None  # option that was given last

    def errors(self) -> list[str]:
        """One message per error; required options count as missing only if there is no other."""
        given: list[Option] = []
        found: list[str] = []
        while self.words:
            if _is_name(self.words[0]):
                found += self._read_named(given)
            elif self.positional:
                option = self.positional.popleft()
                given.append(option)
                found += _value_errors(option, self._take(option))
            else:
                found.append(_surplus(self.words.popleft(), self.last))
        missing = (_missing(option) for option in self.required if option not in given)
        return found or list(missing)

    def _read_named(self, given: list[Option]) -> Iterator[str]:
        name, equals, value = self.words.popleft().partition("=")
        option = self.named.get(name.replace("_", "-"))
        if option is None:
            yield _unknown(name, list(self.named))
            while self.words and not _is_name(self.words[0]):  # its values
                self.words.popleft()
            return
        self.last = option
        given.append(option)
        if not option.count:
            if equals:
                yield _flag_with_value(option, value)
            return
        yield from _value_errors(
            option, [*([value] if equals else ()), *self._take(option, equals)]
        )

    def _take(self, option: Option, given: str = "") -> list[str]:
        """Takes the words of an option's value, up to the next name of an option."""
        limit = len(self.words) if option.is_variadic else option.count - bool(given)
        taken: list[str] = []
        while self.words and len(taken) < limit and not _is_name(self.words[0]):
            taken.append(self.words.popleft())
        return taken


def _is_name(word: str) -> bool:
    """True for a word such as --train.epochs or -x, but not for -5 or -inf."""
    name = word.partition("=")[0]
    if not name.startswith("--") and name[1:].lower() in ("inf", "infinity", "nan"):
        return False
    return name.startswith("-") and name.lstrip("-")[:1].isalpha()


def _unknown(name: str, names: Sequence[str]) -> str:
    typed = name.replace("_", "-")
    last = "." + typed.lstrip("-")
    near = [known for known in names if known.endswith(last)]
    near = near or [known for known in names if known.startswith(typed)]
    if not 1 <= len(near) <= _NEAR:
        near = difflib.get_close_matches(typed, names, n=1, cutoff=0.75)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"unknown option {name}{hint}"


def _value_errors(option: Option, words: Sequence[str]) -> Iterator[str]:
    if option.accepts(words):
        return
    if not words:
        yield f"{option.name} has no value; give {option.accepted()}"
    elif len(words) < option.count and not option.is_variadic:
        count = f"{len(words)} value{'s' * (len(words) > 1)}"
        yield f"{option.name} has {count}, {shlex.join(words)}; give {option.accepted()}"
    else:
        wrong = [word for word in words if not option.is_variadic or not option.accepts([word])]
        near = difflib.get_close_matches(wrong[0], option.choices, n=1)
        hint = f"did you mean {near[0]!r}? give" if near else "give"
        yield f"{option.name} is {' '.join(wrong)!r}; {hint} {option.accepted()}"


def _flag_with_value(option: Option, value: str) -> str:
    return (
        f"{option.name} takes no value, but was given {value!r}; "
        f"give {option.name} or {option.negation}"
    )


def _surplus(word: str, after: Option | None) -> str:
    if after is not None and not after.count:
        return _flag_with_value(after, word)
    if after is not None:
        return f"unexpected argument {word!r}; {after.name} takes {after.accepted()}"
    return f"unexpected argument {word!r}"


def _missing(option: Option) -> str:
    if option.is_positional:
        return f"{option.name} is missing"
    return f"{option.name} is missing; give {option.name} {option.placeholder or option.accepted()}"
