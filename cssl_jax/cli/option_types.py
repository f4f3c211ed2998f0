"""Options of a command by name, and the values that each accepts, from the command's dataclass."""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

_SINGULAR = {
    int: ("a whole number",),
    float: ("a number",),
    str: ("text",),
    pathlib.Path: ("a path",),
    bool: ("True", "False"),
    type(None): ("None",),
}
_PLURAL = {int: "whole numbers", float: "numbers", str: "words", pathlib.Path: "paths"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option or positional argument of a command.

    Attributes:
        name: Name as it is typed, such as --train.epochs; the placeholder of a positional argument.
        kind: Type of the value, without annotations.
        placeholder: Word for the value in help texts, such as FOLDER; "" if the type has none.
        is_positional: Whether the value stands without a name.
        is_required: Whether the command has no default for the option.
    """

    name: str
    kind: Any
    placeholder: str
    is_positional: bool
    is_required: bool

    @property
    def negation(self) -> str:
        """Name that switches a flag off, such as --train.no-tensorboard."""
        head, dot, last = self.name.removeprefix("--").rpartition(".")
        return f"--{head}{dot}no-{last}"

    @property
    def elements(self) -> tuple[Any, ...]:
        """Types of a tuple's elements; () if the option is no tuple."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is tuple else ()

    @property
    def is_variadic(self) -> bool:
        """True if the option takes any number of values."""
        return self.elements[-1:] == (...,)

    @property
    def count(self) -> int:
        """Number of values that the option takes; 0 for a flag."""
        return 0 if self.kind is bool else max(1, len(self.elements))

    @property
    def choices(self) -> tuple[str, ...]:
        """Values of a Literal type, as they are typed; () if other values are accepted as well."""
        kind = self.elements[0] if self.is_variadic else self.kind
        return _choices(kind) if typing.get_origin(kind) is typing.Literal else ()

    def accepts(self, words: Sequence[str]) -> bool:
        """True if the option takes these words as its value."""
        if self.is_variadic:
            return all(_fits(self.elements[0], word) for word in words)
        kinds = self.elements or (self.kind,)
        return len(words) == len(kinds) and all(map(_fits, kinds, words))

    def accepted(self) -> str:
        """Noun phrase for the values that the option accepts, such as "2 numbers"."""
        if self.is_variadic and not self.choices:
            return _PLURAL[self.elements[0]]
        if self.choices:
            return f"one{' or more' if self.is_variadic else ''} of {', '.join(self.choices)}"
        if self.elements:
            return f"{self.count} {_PLURAL[self.elements[0]]}"
        *most, last = [name for kind in _alternatives(self.kind) for name in _names(kind)]
        return f"{', '.join(most)} or {last}" if most else last


def options_of(cls: type, default: Any = None, section: str = "") -> Iterator[Option]:
    """Options of a command's dataclass, nested sections included.

    Args:
        cls: Dataclass with the options.
        default: Instance with defaults; fields that are ``tyro.MISSING`` are required.
        section: Name of the section before the name of each option, with its dot.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        kind, *notes = _unwrapped(hints[field.name])
        value = _default(field) if default is None else getattr(default, field.name)
        names = [name for note in notes if (name := getattr(note, "name", None)) is not None]
        name = names[0] if names else field.name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            if dataclasses.is_dataclass(value):
                kind = type(value)  # a section has the options of its default, as in tyro
            inner = f"{section}{name}." if name else section
            yield from options_of(kind, None if value is tyro.MISSING else value, inner)
            continue
        placeholder = next((word for note in notes if (word := getattr(note, "metavar", ""))), "")
        is_positional = _POSITIONAL in notes
        is_variadic = typing.get_args(kind)[-1:] == (...,)  # empty if no word is given
        yield Option(
            name=placeholder if is_positional else f"--{section}{name}",
            kind=kind,
            placeholder=placeholder,
            is_positional=is_positional,
            is_required=value is tyro.MISSING and not is_variadic,
        )


_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING


def _alternatives(kind: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _choices(kind: Any) -> tuple[str, ...]:
    return tuple(map(str, typing.get_args(kind)))


def _names(kind: Any) -> tuple[str, ...]:
    return _choices(kind) if typing.get_origin(kind) is typing.Literal else _SINGULAR[kind]


def _fits(kind: Any, word: str) -> bool:
    return any(_converts(alternative, word) for alternative in _alternatives(kind))


def _converts(kind: Any, word: str) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return word in _choices(kind)
    if kind is bool:
        return word in ("True", "False")
    if kind is type(None):
        return word == "None"
    try:
        kind(word)
    except ValueError:
        return False
    return True
