"""Recipes by name or file, and configs to and from JSON."""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import pkgutil
import re
import sys
import traceback
import types
import typing
from typing import Any, Literal

from cssl_jax.config import Config, validate
from cssl_jax.errors import UserError

# What a run may change when it is resumed: it determines no figure. on_nonfinite decides only how a
# run goes on that would otherwise end there; results.json tells how many steps were skipped.
_NO_RESULT = (
    *("runtime", "train.checkpoint_every", "train.checkpoint_steps", "train.checkpoint_minutes"),
    *("train.keep", "train.tensorboard", "train.wandb", "train.record_views"),
    *("train.on_nonfinite", "train.nonfinite_limit", "train.check_replicas_every"),
)

# What a run may change besides, when it is resumed: how the same numbers are computed. These fields
# stay in the config's hash, which is older than the permission.
_SAME_RESULT = (
    *("train.log_every", "data.engine", "data.resident", "data.max_rejected"),
    *("evaluate.batch_size", "model.remat", "method.tile_size"),
)
# Where the data lie and how they are found: the fingerprint of the images and labels decides.
_FOUND_BY_FINGERPRINT = (
    *("data.source", "data.validation_source", "data.labels", "data.image_key", "data.label_key"),
    *("data.min_side", "data.max_pixels"),
    *("adapt.target", "adapt.target_validation", "adapt.target_labels"),
)


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(content: dict[str, Any]) -> Config:
    """The reverse of ``to_dict``; absent fields take their defaults.

    Raises:
        UserError: An unknown field, with the nearest right name, or a value of the wrong type.
    """
    return validate(_build(Config, content, ""))


def canonical(config: Config) -> Config:
    """The config with its values' types checked, and whole numbers where fractions belong made so.

    Raises:
        UserError: A value of the wrong type, or one that cannot work.
    """
    return from_dict(to_dict(config))


def override(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values of some fields, by dotted names: {"model.width": 0.5, ...}.

    Raises:
        UserError: An unknown field, with the nearest right name, or a value that cannot work.
    """
    content = to_dict(config)
    for name, value in values.items():
        section, _, field = str(name).partition(".")
        if section not in content or not field:
            known = [f"{part}.{inner}" for part, fields in content.items() for inner in fields]
            by_field = [full for full in known if full.endswith(f".{name}")]
            near = by_field or difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "give section.field"
            raise UserError(f"no config field is called {name}; {hint}")
        content[section][field] = value
    return from_dict(content)


def _build(cls: type, content: Any, prefix: str) -> Any:
    if not isinstance(content, dict):
        raise UserError(f"config field {prefix[:-1] or 'top level'} must hold named fields")
    hints = typing.get_type_hints(cls)
    for name in content:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = (
                f"; did you mean {prefix}{near[0]}?" if near else f"; there are {', '.join(hints)}"
            )
            raise UserError(f"no config field is called {prefix}{name}{hint}")
    values = {name: _convert(hints[name], content[name], prefix + name) for name in content}
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, name + ".")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{name} is {value!r}; give one of {', '.join(map(repr, arguments))}")
    if origin in (types.UnionType, typing.Union):
        choices = [a for a in arguments if a is not type(None)]
        named = [a for a in choices if value in typing.get_args(a)]  # of a Literal
        if value is None or named:
            return value
        return _convert(choices[0], value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} is {value!r}; give a list")
        if Ellipsis not in arguments and len(value) != len(arguments):
            raise UserError(f"{name} has {len(value)} values; give {len(arguments)}")
        return tuple(_convert(arguments[0], item, name) for item in value)
    right = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{name} has {len(str(value))} digits; give a smaller number") from None
    if not right:
        raise UserError(f"{name} is {value!r}; give a value of type {hint.__name__}")
    return value


def to_json(config: Config) -> str:
    """Readable JSON, the form in every run folder."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def config_hash(config: Config) -> str:
    """12 hexadecimal digits of all that determines the result.

    Sources, tables of labels and earlier runs count by their names, wherever they lie.
    """
    content = to_dict(canonical(config))
    for name in _NO_RESULT:
        section, _, field = name.partition(".")
        content[section].pop(field) if field else content.pop(section)
    places = {
        "data": ("source", "validation_source", "labels"),
        "adapt": ("target", "target_validation", "target_labels"),
        "train": ("init",),
    }
    for section, names in places.items():
        for name in names:
            content[section][name] = _name_of(content[section][name])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _name_of(place: str) -> str:
    """Last part of a path, the same for a relative and the absolute one; "" stays ""."""
    return place and pathlib.Path(os.path.abspath(os.path.expanduser(place))).name


def differing_fields(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """(value in a, value in b) of every field that determines the result and differs."""

    def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves: dict[str, Any] = {}
        for name, value in tree.items():
            nested = isinstance(value, dict)
            leaves |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
        return leaves

    first, second = flat(to_dict(a)), flat(to_dict(b))
    return {
        name: (first[name], second[name])
        for name in first
        if first[name] != second[name] and not name.startswith(_NO_RESULT)
    }


def differences(old: Config, new: Config) -> list[str]:
    """Lines "field: old -> new" for every field that determines the result and differs."""
    fields = differing_fields(old, new)
    return [f"{name}: {before!r} -> {after!r}" for name, (before, after) in fields.items()]


def resume_differences(old: Config, new: Config) -> list[str]:
    """``differences`` that keep a run from being resumed with the new config.

    A run's data may lie elsewhere, and be read otherwise: their fingerprints are compared. The run
    of ``train.init`` may lie in another folder under the same name; it is not read again.
    """
    fields = differing_fields(old, new)
    init = fields.get("train.init")
    if init and all(init) and len({pathlib.PurePath(place).name for place in init}) == 1:
        del fields["train.init"]
    for name in (*_SAME_RESULT, *_FOUND_BY_FINGERPRINT):
        fields.pop(name, None)
    return [f"{name}: {before!r} -> {after!r}" for name, (before, after) in fields.items()]


def diff(a: str, b: str) -> str:
    """A table of what two recipes (names or files, see ``load``) set differently."""
    fields = differing_fields(load(a), load(b))
    if not fields:
        return f"{a} and {b} compute the same"
    rows = [("field", a, b)]
    rows += [
        (name, json.dumps(first), json.dumps(second)) for name, (first, second) in fields.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{x:<{widths[0]}}  {y:<{widths[1]}}  {z}".rstrip() for x, y, z in rows)


def recipe_names() -> list[str]:
    """Names that ``load`` resolves."""
    package = _recipes()
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


def recipe_summary(name: str) -> str:
    """First line of a recipe's header."""
    module = importlib.import_module(f"{_recipes().__name__}.{name}")
    return (module.__doc__ or "").strip().splitlines()[0]


def load(recipe: str) -> Config:
    """Opens a recipe by name, a Python file with ``get_config()``, or a JSON file.

    Raises:
        UserError: There is none, or it holds no valid config.
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
            hint = f"to train on the pictures there: folder --data.source {recipe}; "
        raise UserError(
            f"no recipe is called {recipe!r}; {hint}there are {', '.join(names)}, or give the "
            "path of a .py or .json file"
        )
    module = importlib.import_module(f"{_recipes().__name__}.{recipe}")
    return canonical(_get_config(module))


def import_file(path: pathlib.Path) -> types.ModuleType:
    """A user's own Python file as a module."""
    return _execute(importlib.util.spec_from_file_location("cssl_jax_recipe", path))


def _execute(spec: importlib.machinery.ModuleSpec | None) -> types.ModuleType:
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _get_config(module: types.ModuleType) -> Config:
    if not callable(getattr(module, "get_config", None)):
        raise UserError("there is no function get_config() that returns a Config")
    config = module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() returned {type(config).__name__}, not a Config")
    return config


def code_error(what: str, path: pathlib.Path, error: Exception) -> UserError:
    """Says what went wrong in a user's file: which, the line and the error's own words."""
    file = str(path.absolute())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    words = str(error)
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, words = [error.lineno], error.msg
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    where = f", line {lines[-1]}" if lines and lines[-1] else ""
    return UserError(f"{what}{where}: {kind}{words}{_nearest_keyword(words)}")


def _nearest_keyword(words: str) -> str:
    """Python's message on an unexpected keyword -> "; did you mean ...?", else ""."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'$", words)
    hints = typing.get_type_hints(Config)
    classes = {cls.__name__: cls for cls in (Config, *hints.values())}
    if match is None or match[1] not in classes:  # Python 3.13 adds a suggestion of its own
        return ""
    near = difflib.get_close_matches(match[2], typing.get_type_hints(classes[match[1]]), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def facts(config: Config) -> dict[str, Any]:
    """What processes that compute together must have in common, by name; plain JSON."""
    return {
        f"{section}.{name}": value
        for section, fields in dataclasses.asdict(config).items()
        for name, value in fields.items()
        if section != "runtime" or name == "backend"
    }


def read_json(path: pathlib.Path) -> Config:
    """Reads a config as ``to_json`` writes it.

    Raises:
        UserError: No such file, no JSON, or no valid config.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from error
    return from_dict(content)


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
        package = _execute(spec)
        sys.modules[name] = package
        return package
