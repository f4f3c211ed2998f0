"""The examples in docstrings give what they show."""

import doctest
import importlib
import pathlib

import pytest

import cssl_jax

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
