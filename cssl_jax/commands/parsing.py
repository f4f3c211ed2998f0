"""From words of a command line to options."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

from cssl_jax.config import Config
from cssl_jax.errors import UserError

T = TypeVar("T")


def parse(cls: type[T], name: str, argv: Sequence[str], default: T | None = None) -> T:
    """A command's words as its options; exits with usage where they do not fit."""
    options = {} if default is None else {"default": default}
    return tyro.cli(cls, prog=f"cssl-jax {name}", args=list(argv), **options)  # type: ignore[call-overload]


def recipe_first(command: str, needed: str, argv: Sequence[str]) -> Config:
    """The recipe that is named first: its values are the defaults of every other option."""
    from cssl_jax import recipes

    named = first_word(
        argv,
        f"name the recipe first: cssl-jax {command} RECIPE {needed} [options]; "
        f"there are {', '.join(recipes.recipe_names())}",
    )
    return Config() if named is None else recipes.load(named)


def first_word(argv: Sequence[str], instead: str) -> str | None:
    """What a command is about, named before its options; None where help is asked for.

    Raises:
        UserError: Neither, in the words of ``instead``.
    """
    if argv and not argv[0].startswith("-"):
        return argv[0]
    if {"-h", "--help"}.isdisjoint(argv):
        raise UserError(instead)
    return None
