"""Parses the arguments of a command."""

import contextlib
import functools
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

from cssl_jax.cli.brief_help import shorten
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.files import existing_run

T = TypeVar("T")
HELP_ALL = "--help-all"
_WARMUP = "--optimizer.warmup-epochs"

# Positional arguments and paths, with the word for them in help texts and errors.
Recipe = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
Run = tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN")]]
Source = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
Folder = Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[pathlib.Path, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]


def parse(cls: type[T], name: str, argv: Sequence[str], default: T | None = None) -> T:
    """Parses a command's arguments; prints its usage and exits if they do not fit."""
    options = {} if default is None else {"default": default}
    words = ["--help" if word == HELP_ALL else word for word in argv]
    answer = functools.partial(tyro.cli, cls, prog=f"cssl-jax {name}", args=words, **options)
    if not asks_for_help(argv) or HELP_ALL in argv:
        parsed: T = answer()
        return parsed
    full = io.TextIOWrapper(io.BytesIO(), "utf-8")  # tyro draws its boxes where they can be encoded
    try:
        with contextlib.redirect_stdout(full):
            answer()
    finally:
        full.seek(0)
        sys.stdout.write(shorten(full.read(), name, sys.stdout.encoding))
    raise AssertionError("help ends the command")


def asks_for_help(argv: Sequence[str]) -> bool:
    """True if the arguments ask for help."""
    return not {"-h", "--help", HELP_ALL}.isdisjoint(argv)


def recipe_first(command: str, needed: str, argv: Sequence[str]) -> Config:
    """Loads the recipe in the first argument: the defaults of all options.

    Raises:
        UserError: The first argument is no recipe.
    """
    from cssl_jax import recipes

    named = _first(argv)
    if not named and not asks_for_help(argv):
        raise UserError(
            f"name the recipe first: cssl-jax {command} RECIPE {needed} [options]; "
            f"there are {', '.join(recipes.recipe_names())}"
        )
    return recipes.load(named) if named else Config()


def fit_warmup(
    config: Config, recipe: Config, argv: Sequence[str], run: pathlib.Path | None = None
) -> Config:
    """Scales the recipe's warm-up to fewer epochs if it would take more than half of them.

    A warm-up on the command line is kept, and so is one that a run began with. A change is
    reported on standard error.

    Args:
        config: Config with the options of the command line.
        recipe: Recipe before these options.
        argv: Arguments of the command.
        run: Folder of a run that may have begun; None: there is none.
    """
    warmup, epochs = config.optimizer.warmup_epochs, config.train.epochs
    is_given = any(word.partition("=")[0].replace("_", "-") == _WARMUP for word in argv)
    if is_given or 2 * warmup <= epochs or epochs >= recipe.train.epochs or epochs < 1:
        return config
    if run is not None and (run / "config.json").is_file():
        from cssl_jax import recipes

        begun = recipes.read_json(run / "config.json")
        if (begun.train.epochs, begun.optimizer.warmup_epochs) == (epochs, warmup):
            return config
    scaled = warmup * epochs / recipe.train.epochs
    print(
        f"warm-up   {scaled:g} of {epochs} epochs, scaled from the recipe's {warmup:g} of "
        f"{recipe.train.epochs}; {_WARMUP} gives another",
        file=sys.stderr,
    )
    return config.replace({"optimizer.warmup_epochs": scaled})


def run_first(command: str, needed: str, argv: Sequence[str]) -> pathlib.Path | None:
    """Opens the run in the first argument: its config has the defaults of all options.

    Returns:
        The absolute path of its folder; None if help is requested without a run.

    Raises:
        UserError: There is no first argument, or it is no run folder.
    """
    named = _first(argv)
    if not named and not asks_for_help(argv):
        raise UserError(f"name the run first: cssl-jax {command} RUN {needed}[options]")
    return existing_run(named) if named else None


def _first(argv: Sequence[str]) -> str:
    return "" if not argv or argv[0].startswith("-") else argv[0]
