"""From words of a command line to options."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.files import existing_run

T = TypeVar("T")
_WARMUP = "--optimizer.warmup-epochs"

# What is named first, by the word that help and errors call it.
Recipe = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
Run = tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN")]]
Source = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
Folder = Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[pathlib.Path, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]


def parse(cls: type[T], name: str, argv: Sequence[str], default: T | None = None) -> T:
    """A command's words as its options; exits with usage where they do not fit."""
    options = {} if default is None else {"default": default}
    return tyro.cli(cls, prog=f"cssl-jax {name}", args=list(argv), **options)  # type: ignore[call-overload]


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the words ask what there is, and not to do anything."""
    return not {"-h", "--help"}.isdisjoint(argv)


def recipe_first(command: str, needed: str, argv: Sequence[str]) -> Config:
    """The recipe that is named first: its values are the defaults of every other option."""
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
    """The config with the recipe's warm-up scaled to fewer epochs, where it takes most of them.

    A warm-up that is given stays, and so does one that takes at most half of the epochs, or that a
    run began with. What is changed is reported on a line.

    Args:
        config: Of the command.
        recipe: Named first, before options.
        argv: Words of the command.
        run: Folder of a run that may have begun.
    """
    warmup, epochs = config.optimizer.warmup_epochs, config.train.epochs
    given = any(word.partition("=")[0].replace("_", "-") == _WARMUP for word in argv)
    if given or 2 * warmup <= epochs or epochs >= recipe.train.epochs or epochs < 1:
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
    """The folder of the run that is named first, whose config the other options start from.

    Returns:
        Its absolute path; None where help is asked for without one.

    Raises:
        UserError: None is, or what is named is none.
    """
    named = _first(argv)
    if not named and not asks_for_help(argv):
        raise UserError(f"name the run first: cssl-jax {command} RUN {needed}[options]")
    return existing_run(named) if named else None


def _first(argv: Sequence[str]) -> str:
    return "" if not argv or argv[0].startswith("-") else argv[0]
