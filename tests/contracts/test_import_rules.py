"""Imports between packages point downwards only, and no two modules import each other."""

import ast
import graphlib
import pathlib

import pytest

import cssl_jax

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
# A package may import those that follow it, at the top of a module or inside a function.
ORDER = (
    *("__main__", "cli", "sweeps", "transfer", "selfcheck", "report", "train", "planning"),
    *(
        "evaluate",
        "experiment",
        "recipes",
        "checkpoint",
        "step",
        "optim",
        "methods",
        "losses",
        "models",
    ),
    *("data", "config", "augment", "interop", "runtime"),
    *("registries", "outputs", "progress", "files", "lazy", "errors", "version"),
)


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """Modules of this package that a file imports anywhere, those for type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cssl_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def package(module):
    return [*module.split("."), ""][1]


EDGES = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [name for name in MODULES if package(name)])
def test_imports_point_downwards(name):
    own = ORDER.index(package(name))
    upwards = {other for other in EDGES[name] if package(other) in ORDER[:own]}
    assert upwards == set()


def test_every_package_has_a_place_in_the_order():
    assert {package(name) for name in MODULES} - {"", "configs"} <= set(ORDER)
    assert {entry for entry in ORDER if not (PACKAGE / entry).is_dir()} == {
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    }


def test_no_two_modules_import_each_other():
    # The package's own __init__ names its public functions, which it imports on first use.
    edges = {name: others - {"cssl_jax"} for name, others in EDGES.items() if name != "cssl_jax"}
    tuple(graphlib.TopologicalSorter(edges).static_order())  # raises CycleError


def test_an_upward_import_is_seen(tmp_path):
    path = tmp_path / "low.py"
    path.write_text("def late():\n    from cssl_jax.cli import main\n    return main\n")
    assert set(imported(path)) == {"cssl_jax.cli.main"}
