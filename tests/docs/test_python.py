"""The page on Python has the public names of every package and a function for every command."""

import importlib
import pathlib
import pkgutil
import re

import cssl_jax
from cssl_jax.cli.registry import COMMANDS

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text()


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title):
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section(title), re.MULTILINE)
    return {name: re.findall(r"`([^`]+)`", content) for name, content in found}


def test_the_table_has_the_public_names_of_every_package():
    packages = {name: importlib.import_module(name) for name in rows("Public names")}
    assert rows("Public names") == {name: p.__all__ for name, p in packages.items()}
    children = {
        f"cssl_jax.{child.name}" for child in pkgutil.iter_modules(cssl_jax.__path__) if child.ispkg
    }
    assert set(packages) == {"cssl_jax"} | (children - {"cssl_jax.cli", "cssl_jax.configs"})


def test_every_command_has_a_function():
    functions = rows("Commands and functions")
    assert list(functions) == list(COMMANDS)
    for command, calls in functions.items():
        named = [name for call in calls for name in re.findall(r"cssl_jax\.(\w+)", call)]
        assert named, command
        assert set(named) <= set(cssl_jax.__all__), command


def test_the_examples_are_python_and_name_what_exists():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        compile(block, "docs/python.md", "exec")
        for path in re.findall(r"cssl_jax((?:\.\w+)+)", block):
            thing = cssl_jax
            for name in path.strip(".").split("."):
                thing = getattr(thing, name)
