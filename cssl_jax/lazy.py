"""Imports the modules of a package when they are first used as attributes of the package."""

import importlib
import types
from collections.abc import Callable


def submodules(package: str) -> Callable[[str], types.ModuleType]:
    """Returns a ``__getattr__`` for a package, with which ``package.module`` needs no import.

    Args:
        package: Full name of the package, its ``__name__``.
    """

    def get(name: str) -> types.ModuleType:
        full = f"{package}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:  # the module exists, but one of its imports is missing
                raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
