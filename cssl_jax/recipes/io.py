"""Configs to and from JSON, with their values checked."""

import dataclasses
import difflib
import json
import pathlib
import types
import typing
from typing import Any, Literal

from cssl_jax.config import Config
from cssl_jax.errors import UserError, cut, short
from cssl_jax.recipes.sections import (
    check_section,
    dead_sections,
    section_types,
    upgraded,
    with_method,
    with_modality,
)
from cssl_jax.recipes.validation import validate


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, ready for JSON; sections that the method does not use are omitted.

    One that was changed is kept: another method may be trained from the same config.

    Example:
        >>> from cssl_jax.config import Config
        >>> to_dict(Config())["train"]["epochs"] == Config().train.epochs
        True
    """
    content, default = dataclasses.asdict(config), dataclasses.asdict(Config())
    unused = [name for name in dead_sections(config) if content[name] == default[name]]
    return {name: section for name, section in content.items() if name not in unused}


def from_dict(content: dict[str, Any]) -> Config:
    """The reverse of ``to_dict``; absent fields take their defaults.

    Raises:
        UserError: An unknown field, with the nearest right name, or a value of the wrong type.

    Example:
        >>> from cssl_jax.config import Config
        >>> from_dict({"train": {"epochs": 50}}) == Config().replace({"train.epochs": 50})
        True
    """
    if not isinstance(content, dict):
        raise UserError("a config must hold named sections")
    types = section_types(content)
    absent: dict[str, Any] = {name: {} for name in types}  # defaults of its class, not of Config
    return validate(_build(Config, {**absent, **upgraded(content)}, "", types))


def canonical(config: Config) -> Config:
    """The config with its values' types checked, and whole numbers where fractions belong made so.

    Raises:
        UserError: A value of the wrong type, or one that cannot work.

    Example:
        >>> from cssl_jax.config import Config
        >>> canonical(Config()) == Config()
        True
    """
    check_section(config)
    return from_dict(to_dict(config))


def override(config: Config, values: dict[str, Any]) -> Config:
    """Returns the config with other values of some fields, checked.

    Another ``method.name`` comes with the default options of that method, another
    ``data.modality`` with the default data and augmentation of that modality.

    Args:
        config: Config to start from.
        values: Values by dotted name, such as {"model.width": 0.5}.

    Raises:
        UserError: A field is unknown, with the nearest right name, or a value cannot work.

    Example:
        >>> from cssl_jax.config import Config
        >>> override(Config(), {"train.epochs": 50}).train.epochs
        50
    """
    name = values.get("method.name", config.method.name)
    if isinstance(name, str) and name != config.method.name:
        config = with_method(config, name)
    kind = values.get("data.modality", config.data.modality)
    if isinstance(kind, str) and kind != config.data.modality:
        config = with_modality(config, kind)
    return canonical(config.replace(values))


def _build(cls: type, content: Any, prefix: str, sections: dict[str, type] | None = None) -> Any:
    """An instance of a dataclass; ``sections`` replaces the declared types of some fields."""
    if not isinstance(content, dict):
        raise UserError(f"config field {prefix[:-1]} must hold named fields")
    declared = typing.get_type_hints(cls) | (sections or {})
    hints = {field.name: declared[field.name] for field in dataclasses.fields(cls)}
    for name in content:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = (
                f"; did you mean {prefix}{near[0]}?" if near else f"; there are {', '.join(hints)}"
            )
            raise UserError(f"no config field is called {cut(prefix + name)}{hint}")
    values = {name: _convert(hints[name], content[name], prefix + name) for name in content}
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, name + ".")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{name} is {short(value)}; give one of {', '.join(map(repr, arguments))}")
    if origin in (types.UnionType, typing.Union):
        choices = [a for a in arguments if a is not type(None)]
        named = [a for a in choices if value in typing.get_args(a)]  # of a Literal
        return value if value is None or named else _convert(choices[0], value, name)
    if origin is tuple:
        return _convert_list(arguments, value, name)
    return _convert_scalar(hint, value, name)


def _convert_list(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{name} is {short(value)}; give a list")
    if Ellipsis not in arguments and len(value) != len(arguments):
        raise UserError(f"{name} has {len(value)} values; give {len(arguments)}")
    return tuple(_convert(arguments[0], item, name) for item in value)


def _convert_scalar(hint: type, value: Any, name: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{name} has {len(str(value))} digits; give a smaller number") from None
    # A bool is an int in Python, but not in a config.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{name} is {short(value)}; give a value of type {hint.__name__}")
    return value


def to_json(config: Config) -> str:
    """Readable JSON, the form in every run folder.

    Example:
        >>> from cssl_jax.config import Config
        >>> import json
        >>> json.loads(to_json(Config()))["method"]["name"]
        'simclr'
    """
    return json.dumps(to_dict(config), indent=2) + "\n"


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
