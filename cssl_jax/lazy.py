"""Public names and submodules of a package, imported when they are first used.

A package with slow imports lists its public names in its ``__init__.py``, and nowhere else::

    if TYPE_CHECKING:
        from cssl_jax.evaluate.encoders.load import load_encoder
        from cssl_jax.evaluate.run import evaluate_run

    __all__ = ["evaluate_run", "load_encoder"]
    __getattr__, __dir__ = public_names(__name__)

Type checkers and editors follow the imports. They do not run when the package is imported:
``__getattr__`` looks a name up among them when the name is first used.
"""

import ast
import functools
import importlib
import pkgutil
import sys
import types
from collections.abc import Callable
from typing import Any


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


def public_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns ``__getattr__`` and ``__dir__`` of a package with public names and submodules.

    A public name must not be the name of a submodule: the import of that submodule would replace
    it.

    Args:
        package: Full name of the package, its ``__name__``. Its ``__init__.py`` imports its public
            names below ``if TYPE_CHECKING:``.
    """
    get_submodule = submodules(package)
    locations = functools.cache(lambda: _imports_for_type_checking(package))

    def get(name: str) -> Any:
        # Python asks for names such as __path__ of every package: these need no parsing.
        if name.startswith("_") or name not in locations():
            return get_submodule(name)
        module, attribute = locations()[name]
        return getattr(importlib.import_module(module), attribute)

    def names() -> list[str]:
        module = sys.modules[package]
        children = (child.name for child in pkgutil.iter_modules(module.__path__))
        public = (name for name in children if not name.startswith("_"))
        return sorted({*vars(module), *module.__all__, *public})

    return get, names


def _imports_for_type_checking(package: str) -> dict[str, tuple[str, str]]:
    """Name to (module, name in it) of the imports below ``if TYPE_CHECKING:`` of a package."""
    source = pkgutil.get_data(package, "__init__.py")
    assert source is not None
    return {
        alias.asname or alias.name: (statement.module or "", alias.name)
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
