"""The architecture page has the packages in the order of imports, rules by number, real paths."""

import pathlib
import re

import cssl_jax
from cssl_jax.methods.base import Method
from helpers import packages

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = pathlib.Path(cssl_jax.__file__).parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_table_of_packages_is_the_order_of_imports():
    named = re.findall(r"^\| `(\w+)` \|", section("Packages"), re.MULTILINE)
    assert tuple(named) == packages.ORDER


def test_rules_are_numbered_and_tests_cite_existing_ones():
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", section("Rules"), re.MULTILINE)]
    assert numbers == list(range(1, 12))
    cited = {
        int(number)
        for path in (ROOT / "tests").rglob("*.py")
        for number in re.findall(r"docs/architecture\.md, rule (\d+)", path.read_text())
    }
    assert cited
    assert cited <= set(numbers)


def test_every_path_that_is_named_exists():
    paths = re.findall(r"`([a-z_]+/[\w./]*)`", TEXT)
    assert len(paths) > 20
    for path in paths:
        found = (
            (ROOT / path).exists() or (PACKAGE / path).exists() or any(PACKAGE.glob(f"*/{path}"))
        )
        assert found, path


def test_the_methods_members_are_those_of_the_base_class():
    members = {name for name in [*vars(Method), *Method.__annotations__] if name[0] != "_"}
    table = section("Contracts").partition("### Method")[2].partition("###")[0]
    named = re.findall(r"^\| `(\w+)", table, re.MULTILINE)
    assert sorted(named) == sorted(members)


def test_the_page_says_what_a_method_must_give():
    text = " ".join(section("Contracts").partition("### Method")[2].partition("###")[0].split())
    required = re.search(r"Only ([^.]*) must be given", text)[1]
    assert set(re.findall(r"`(\w+)`", required)) == set(Method.__abstractmethods__)
