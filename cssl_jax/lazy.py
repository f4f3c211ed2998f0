"""Modules of a package that are imported when they are first used as its attributes."""

import importlib
import types
from collections.abc import Callable


def submodules(package: str) -> Callable[[str], types.ModuleType]:
    """A module-level ``__getattr__`` for a package, by which ``package.module`` needs no import."""

    def get(name: str) -> types.ModuleType:
        full = f"{package}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:  # a package that the module needs is missing
                raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
