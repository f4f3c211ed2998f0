"""Config sections whose class depends on the method or the modality: the options that it has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cssl_jax.config import Config, MethodConfig
from cssl_jax.errors import UserError
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.registries import is_file_name

# Sections that only some methods use; ``MethodEntry.sections`` says which.
SHARED_SECTIONS = frozenset({"classifier", "adapt"})
# Options that the section of every method had before methods had sections of their own, and the
# methods that do not have them any more; those in files of users' own are not known by name.
_FORMER_OPTIONS = ("temperature", "tile_size")
_FORMER_METHODS = ("classifier", "coral", "dann")


def with_method(config: Config, name: str) -> Config:
    """The config with another method, the default options of that method and its head.

    Args:
        config: Config to start from.
        name: Key of ``METHODS``, or "file.py:NAME".

    Raises:
        UserError: There is no such method.

    Example:
        >>> with_method(Config(), "classifier").method
        MethodConfig(name='classifier')
    """
    entry = method_entry(name)
    return dataclasses.replace(
        config,
        method=entry.config(name=name),
        model=dataclasses.replace(config.model, **entry.model),
    )


def with_modality(config: Config, name: str) -> Config:
    """The config with another modality and the default data and augmentation of that modality.

    Args:
        config: Config to start from.
        name: Key of ``MODALITIES``, or "file.py:NAME".

    Raises:
        UserError: There is no such modality.

    Example:
        >>> from cssl_jax.config import Config
        >>> with_modality(Config(), "series").data.modality
        'series'
    """
    modality = modality_entry(name)
    return dataclasses.replace(
        config, data=modality.data(modality=name), augment=modality.augment()
    )


def section_types(content: Mapping[str, Any]) -> dict[str, type]:
    """Classes of the sections whose class depends on a name in them.

    Args:
        content: Config as parsed JSON.

    Raises:
        UserError: There is no such method or modality.
    """
    modality = modality_entry(_name_in(content, "data", "modality", Config().data.modality))
    return {
        "method": method_entry(_method_name(content)).config,
        "data": modality.data,
        "augment": modality.augment,
    }


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed JSON config without the former options that its method does not have."""
    section, name = content.get("method"), _method_name(content)
    if not isinstance(section, dict) or not (name in _FORMER_METHODS or is_file_name(name)):
        return dict(content)
    kept = {field.name for field in dataclasses.fields(section_types(content)["method"])}
    former = set(_FORMER_OPTIONS) - kept
    return {**content, "method": {k: v for k, v in section.items() if k not in former}}


def check_section(config: Config) -> None:
    """Refuses a section with the options of another method or modality than the config names.

    Raises:
        UserError: There is one, or there is no such method or modality.
    """
    kind = config.data.modality
    modality = modality_entry(kind)
    expected: tuple[tuple[str, str, str, type], ...] = (
        ("method", "method.name", config.method.name, method_entry(config.method.name).config),
        ("data", "data.modality", kind, modality.data),
        ("augment", "data.modality", kind, modality.augment),
    )
    for section, field, name, wanted in expected:
        found = type(getattr(config, section))
        if found is not wanted:
            tag = field.partition(".")[0] if section == "method" else "modality"
            raise UserError(
                f"{field} is {name!r}, whose options are a {wanted.__name__}, and "
                f"config.{section} is a {found.__name__}; change the {tag} by "
                f"cssl_jax.recipes.with_{tag}"
            )


def dead_sections(config: Config) -> frozenset[str]:
    """Names of the sections that the config's method does not use."""
    return SHARED_SECTIONS - set(method_entry(config.method.name).sections)


def _method_name(content: Mapping[str, Any]) -> str:
    default: MethodConfig = Config().method
    return _name_in(content, "method", "name", default.name)


def _name_in(content: Mapping[str, Any], section: str, field: str, default: str) -> str:
    """A name in a parsed JSON config; the default where it is missing or no text."""
    values = content.get(section)
    name = values.get(field) if isinstance(values, dict) else None
    return name if isinstance(name, str) else default
