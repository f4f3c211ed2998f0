"""CITATION.cff, the changelog and the commit hooks agree with the package and the Makefile."""

import pathlib
import re

import pytest
import yaml

import cssl_jax

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_has_the_version_and_the_licence_of_the_package():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == cssl_jax.__version__
    assert f"license = {citation['license']}" in (ROOT / "setup.cfg").read_text()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_hooks_run_what_make_runs(command):
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert any(entry.startswith(f".venv/bin/{command}") for entry in entries)
    assert re.search(rf"\$\(BIN\)/{command}\b", (ROOT / "Makefile").read_text())


def test_the_changelog_has_one_line_per_entry_below_added_changed_or_fixed():
    text = (ROOT / "CHANGELOG.md").read_text()
    (unreleased,) = re.findall(r"^## \[Unreleased\]\n(.*)", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^### (.+)$", unreleased, re.MULTILINE) == ["Added", "Changed", "Fixed"]
    entries = [line for line in unreleased.splitlines() if line.startswith("- ")]
    assert len(entries) > 50
    assert all(line.endswith(".") for line in entries)
    assert not re.findall(r"^ +\S", unreleased, re.MULTILINE)  # no continuation lines
