"""Config sections whose class depends on the method: the options that the method has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cssl_jax.config import Config, MethodConfig
from cssl_jax.errors import UserError
from cssl_jax.methods.registry import method_entry
from cssl_jax.registries import is_file_name

# Sections that only some methods use; ``MethodEntry.sections`` says which.
SHARED_SECTIONS = frozenset({"classifier", "adapt"})
# Options that the section of every method had before methods had sections of their own, and the
# methods that do not have them any more; those in files of users' own are not known by name.
_FORMER_OPTIONS = ("temperature", "tile_size")
_FORMER_METHODS = ("classifier", "coral", "dann")


def with_method(config: Config, name: str) -> Config:
    """The config with another method and the default options of that method.

    Args:
        config: Config to start from.
        name: Key of ``METHODS``, or "file.py:NAME".

    Raises:
        UserError: There is no such method.

    Example:
        >>> with_method(Config(), "classifier").method
        MethodConfig(name='classifier')
    """
    return dataclasses.replace(config, method=method_entry(name).config(name=name))


def section_types(content: Mapping[str, Any]) -> dict[str, type]:
    """Classes of the sections whose class depends on a name in them.

    Args:
        content: Config as parsed JSON.

    Raises:
        UserError: There is no such method.
    """
    return {"method": method_entry(_method_name(content)).config}


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed JSON config without the former options that its method does not have."""
    section, name = content.get("method"), _method_name(content)
    if not isinstance(section, dict) or not (name in _FORMER_METHODS or is_file_name(name)):
        return dict(content)
    kept = {field.name for field in dataclasses.fields(section_types(content)["method"])}
    former = set(_FORMER_OPTIONS) - kept
    return {**content, "method": {k: v for k, v in section.items() if k not in former}}


def check_section(config: Config) -> None:
    """Refuses a section ``method`` that has the options of another method than it names.

    Raises:
        UserError: It has, or there is no such method.
    """
    expected = method_entry(config.method.name).config
    if type(config.method) is not expected:
        raise UserError(
            f"method.name is {config.method.name!r}, whose options are a {expected.__name__}, and "
            f"config.method is a {type(config.method).__name__}; change the method by "
            "cssl_jax.recipes.with_method"
        )


def dead_sections(config: Config) -> frozenset[str]:
    """Names of the sections that the config's method does not use."""
    return SHARED_SECTIONS - set(method_entry(config.method.name).sections)


def _method_name(content: Mapping[str, Any]) -> str:
    section = content.get("method")
    name = section.get("name") if isinstance(section, dict) else None
    default: MethodConfig = Config().method
    return name if isinstance(name, str) else default.name
