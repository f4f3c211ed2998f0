"""From words of a command line to options."""

import pathlib
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

    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    named = [word for word in argv[:1] if not word.startswith("-")]
    if not named and not asks_for_help:
        raise UserError(
            f"name the recipe first: cssl-jax {command} RECIPE {needed} [options]; "
            f"there are {', '.join(recipes.recipe_names())}"
        )
    return recipes.load(named[0]) if named else Config()


def check_parent(path: pathlib.Path, option: str) -> None:
    """Refuses a file to write whose folder is not there, before any work is done."""
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist; make it first")
