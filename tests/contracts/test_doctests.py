"""The examples in docstrings give what they show."""

import doctest
import importlib
import inspect
import pathlib

import pytest

import cssl_jax

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]
# Packages whose public functions take arrays, names and configs. The others need a run folder,
# several devices or minutes; docs/ show their use.
PACKAGES = (
    *("augment", "config", "data", "evaluate", "losses", "methods", "modalities", "models"),
    *("optim", "recipes"),
)
NEED_A_FILE = {
    *("evaluate.evaluate_run", "evaluate.load_encoder", "data.load_masks"),
    *("recipes.code_error", "recipes.import_file", "recipes.read_json"),
}
# Their results are longer than an example.
WITH_LONG_RESULTS = {
    *("augment.apply_views", "recipes.describe", "recipes.diff", "recipes.facts"),
    "recipes.with_absolute_paths",
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_have_an_example(package):
    module = importlib.import_module(f"cssl_jax.{package}")
    functions = [n for n in module.__all__ if inspect.isfunction(getattr(module, n))]
    lacking = {f"{package}.{n}" for n in functions if ">>> " not in getattr(module, n).__doc__}
    assert lacking <= NEED_A_FILE | WITH_LONG_RESULTS
