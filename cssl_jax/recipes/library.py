"""Recipes by name or by file."""

import ast
import difflib
import importlib
import importlib.util
import json
import pathlib
import pkgutil
import re
import sys
import traceback
import types
import typing

from cssl_jax.config import Config
from cssl_jax.errors import UserError, short
from cssl_jax.recipes.compare import changed_fields, differing_fields
from cssl_jax.recipes.io import canonical, read_json
from cssl_jax.registries import execute


def recipe_names() -> list[str]:
    """Names that ``load`` resolves.

    Example:
        >>> "digits" in recipe_names()
        True
    """
    package = _recipes()
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


def recipe_summary(name: str) -> str:
    """First line of a recipe's header.

    Example:
        >>> recipe_summary("debug")
        'A few steps of a tiny encoder on the embedded digits: seconds; for trying commands out.'
    """
    return _header(name).splitlines()[0]


def _header(recipe: str) -> str:
    """Docstring of a recipe's file; "" for a JSON file, which has none."""
    path = pathlib.Path(recipe).expanduser()
    if path.suffix == ".json":
        return ""
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return (importlib.import_module(f"{_recipes().__name__}.{recipe}").__doc__ or "").strip()


def describe(recipe: str) -> str:
    """Header of a recipe, and a table of the fields that it sets to other than their defaults.

    Args:
        recipe: Name or file of the recipe, see ``load``.

    Raises:
        UserError: There is no such recipe, or it holds no valid config.
    """
    fields = changed_fields(load(recipe))
    table = _table(("field", "value", "default"), fields) if fields else "all fields at default"
    return "\n\n".join(filter(None, (_header(recipe), table)))


def load(recipe: str) -> Config:
    """Opens a recipe by name, a Python file with ``get_config()``, or a JSON file.

    Raises:
        UserError: There is none, or it holds no valid config.

    Example:
        >>> load("debug").data.source
        'digits'
    """
    path = pathlib.Path(recipe).expanduser()
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"recipe file {recipe} does not exist")
        try:
            return canonical(_get_config(import_file(path)))
        except Exception as error:  # whatever a user's code may raise
            raise code_error(f"recipe {recipe}", path, error) from error
    names = recipe_names()
    if recipe not in names:
        near = difflib.get_close_matches(recipe, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if path.is_dir():
            hint = f"to train on the images there: folder --data.source {recipe}; "
        raise UserError(
            f"no recipe is called {short(recipe)}; {hint}there are {', '.join(names)}, or give the "
            "path of a .py or .json file"
        )
    module = importlib.import_module(f"{_recipes().__name__}.{recipe}")
    return canonical(_get_config(module))


def import_file(path: pathlib.Path) -> types.ModuleType:
    """A user's own Python file as a module."""
    return execute(importlib.util.spec_from_file_location("cssl_jax_recipe", path))


def _get_config(module: types.ModuleType) -> Config:
    if not callable(getattr(module, "get_config", None)):
        raise UserError("there is no function get_config() that returns a Config")
    config = module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() returned {type(config).__name__}, not a Config")
    return config


def code_error(what: str, path: pathlib.Path, error: Exception) -> UserError:
    """Error with the name of a user's file, the line and the message of the original error."""
    file = str(path.absolute())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, message = [error.lineno], error.msg
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    where = f", line {lines[-1]}" if lines and lines[-1] else ""
    return UserError(f"{what}{where}: {kind}{message}{_nearest_keyword(message)}")


def _nearest_keyword(message: str) -> str:
    """Python's message on an unexpected keyword -> "; did you mean ...?", else ""."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'$", message)
    hints = typing.get_type_hints(Config)
    classes = {cls.__name__: cls for cls in (Config, *hints.values())}
    if match is None or match[1] not in classes:  # Python 3.13 adds a suggestion of its own
        return ""
    near = difflib.get_close_matches(match[2], typing.get_type_hints(classes[match[1]]), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def diff(a: str, b: str) -> str:
    """A table of what two recipes (names or files, see ``load``) set differently."""
    fields = differing_fields(load(a), load(b))
    if not fields:
        return f"{a} and {b} compute the same"
    return _table(("field", a, b), fields)


def _table(head: tuple[str, str, str], fields: dict[str, tuple[typing.Any, typing.Any]]) -> str:
    """Table of two values per field, as JSON."""
    rows = [head]
    rows += [
        (name, json.dumps(first), json.dumps(second)) for name, (first, second) in fields.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{x:<{widths[0]}}  {y:<{widths[1]}}  {z}".rstrip() for x, y, z in rows)


def _recipes() -> types.ModuleType:
    """The package ``cssl_jax.configs``; in a checkout that is not installed, its ``configs/``."""
    name = "cssl_jax.configs"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        folder = pathlib.Path(__file__).resolve().parents[2] / "configs"
        if error.name != name or not (folder / "__init__.py").is_file():
            raise
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        package = execute(spec)
        sys.modules[name] = package
        return package
