"""Imports between packages point downwards only, and no two modules import each other."""

import graphlib

import pytest

from helpers.packages import MODULES, ORDER, PACKAGE, imported, package

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
