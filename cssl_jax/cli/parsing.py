"""Parses the arguments of a command."""

import contextlib
import functools
import io
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from cssl_jax.cli import usage_errors
from cssl_jax.cli.brief_help import HELP_ALL, asks_for_help, fit, shorten, without_sections
from cssl_jax.cli.option_types import options_of
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.files import existing_run

T = TypeVar("T")
# Sections of the config that only some methods use, and the command that trains those.
SECTION_COMMANDS = {"classifier": "finetune", "adapt": "adapt"}
_WARMUP = "--optimizer.warmup-epochs"

# Positional arguments and paths, with the word for them in help texts and errors.
Recipe = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
Run = tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN")]]
Source = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
Folder = Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[pathlib.Path, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]


def parse(cls: type[T], name: str, argv: Sequence[str], default: T | None = None) -> T:
    """Parses a command's arguments; prints its help and exits if they ask for it.

    Args:
        cls: Dataclass of the command's options.
        name: Name of the command.
        argv: Arguments after the name.
        default: Instance with the defaults; fields that are ``tyro.MISSING`` are required.

    Raises:
        UserError: The command does not take the arguments.
    """
    if asks_for_help(argv):
        _print_help(cls, name, argv, default)
    _refuse_unused(name, argv, default)
    refusal = io.StringIO()  # tyro's own description, which takes many lines
    try:
        with contextlib.redirect_stderr(refusal):
            return _parser(cls, name, default)(args=list(argv))
    except SystemExit as error:
        if not error.code:
            raise
        if reason := _reason(error):
            raise reason from None
    raise UserError(usage_errors.message(options_of(cls, default), name, argv))


def _refuse_unused(command: str, argv: Sequence[str], default: Any) -> None:
    """Raises UserError for an option that the config's method does not use."""
    unused = _unused_sections(command, default)
    for word in argv:
        section = word.partition("=")[0].removeprefix("--").partition(".")[0]
        if word.startswith("--") and section in unused:
            raise UserError(
                f"{word.partition('=')[0]} has no effect on method {default.config.method.name!r}; "
                f"omit it, or use `cssl-jax {SECTION_COMMANDS[section]}`"
            )


def _reason(error: BaseException | None) -> UserError | None:
    """Error of an options dataclass that refused its values; tyro raises SystemExit from it."""
    while error is not None and not isinstance(error, UserError):
        error = error.__context__
    return error


def _print_help(cls: type[T], name: str, argv: Sequence[str], default: T | None) -> NoReturn:
    """Prints the help, with the essential options alone unless all are requested, and exits."""
    full = io.TextIOWrapper(io.BytesIO(), "utf-8")  # tyro draws its boxes where they can be encoded
    try:
        with contextlib.redirect_stdout(full):
            _parser(cls, name, default)(args=["--help"])
    finally:
        full.seek(0)
        text = without_sections(full.read(), _unused_sections(name, default))
        text = text if HELP_ALL in argv else shorten(text)
        sys.stdout.write(fit(text, shutil.get_terminal_size().columns, sys.stdout.encoding))
    raise AssertionError("help ends the command")


def _unused_sections(command: str, default: Any) -> frozenset[str]:
    """Config sections that the command's method does not use; ``adapt`` trains several methods."""
    from cssl_jax.recipes.sections import dead_sections

    config = getattr(default, "config", None)
    if command == "adapt" or not isinstance(config, Config):
        return frozenset()
    return dead_sections(config)


def _parser(cls: type[T], name: str, default: T | None) -> Callable[..., T]:
    options = {} if default is None else {"default": default}
    return functools.partial(tyro.cli, cls, prog=f"cssl-jax {name}", **options)


def recipe_first(command: str, needed: str, argv: Sequence[str]) -> Config:
    """Loads the recipe in the first argument: the defaults of all options.

    Another method or modality on the command line comes with its own default options.

    Raises:
        UserError: The first argument is no recipe, or there is no such method or modality.
    """
    from cssl_jax import recipes

    named = _first(argv)
    if not named and not asks_for_help(argv):
        raise UserError(
            f"name the recipe first: cssl-jax {command} RECIPE {needed} [options]; "
            f"there are {', '.join(recipes.recipe_names())}"
        )
    config = recipes.load(named) if named else Config()
    method = _value_of("--method.name", argv)
    config = recipes.with_method(config, method) if method else config
    modality = _value_of("--data.modality", argv)
    return recipes.with_modality(config, modality) if modality else config


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


def _value_of(name: str, argv: Sequence[str]) -> str:
    """Value of an option's last occurrence among the arguments; "" if it has none."""
    values = [""]
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        given, equals, value = word.partition("=")
        if given.replace("_", "-") == name:
            values.append(value if equals else following)
    return values[-1]


def _first(argv: Sequence[str]) -> str:
    return "" if not argv or argv[0].startswith("-") else argv[0]
