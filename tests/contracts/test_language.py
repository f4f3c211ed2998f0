"""Texts and names use the field's words, see docs/glossary.md and CONTRIBUTING.md."""

import ast
import inspect
import json
import pathlib
import re

import pytest

from helpers.packages import PACKAGE

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Fragments that cannot be understood without the line before them.
FRAGMENT = re.compile(r"(Of|As|Its|That|Those|Likewise)\b")
# Words with a standard term in the field, as whole words.
WORDS = re.compile(
    r"\b(pictures?|floors?|keyed|anew|mend(s|ed|ing)?|(go|goes|going|gone|went) on|sick(ness)?"
    r"|wish(es|ed)?|dearest|twins?|trainings|in words|(left|leaves?) out|told|tells?"
    r"|judg(e|es|ed|ing)|first process|broken off|likewise)\b",
    re.IGNORECASE,
)
ERRORS = ("UserError", "MissingDataError", "RunError", "InterruptedRunError", "StoppedRunError")
# "pictures" is what `data check` calls its counts in JSON; a folder may have any name.
ENTRY = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


def trees(*folders):
    for folder in folders:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def help_texts():
    """(place, text) of every option's and command's help."""
    for path, tree in trees("cli", "config", "augment"):
        for node in ast.walk(tree):
            is_config = isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.dump(decorator) for decorator in node.decorator_list
            )
            if is_config and (text := ast.get_docstring(node)):
                head, _, entries = inspect.cleandoc(text).partition("Attributes:\n")
                yield f"{path}: {node.name}", head
                for name, entry in ENTRY.findall(entries):
                    yield f"{path}: {node.name}.{name}", entry


def docstrings():
    """(place, text) of every docstring of the package and of the recipes."""
    for path in (*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "configs").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if documented and (text := ast.get_docstring(node)):
                yield f"{path.name}: {getattr(node, 'name', 'module')}", text


def names_of_tests():
    """(place, name in words) of every test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield path.name, node.name.replace("_", " ")


def notebook_texts():
    """(place, line) of every line of the notebooks: prose, code and printed output."""
    for path in (ROOT / "docs" / "guide.ipynb", ROOT / "launch" / "colab.ipynb"):
        for number, cell in enumerate(json.loads(path.read_text())["cells"]):
            printed = [
                line for output in cell.get("outputs", ()) for line in output.get("text", ())
            ]
            for line in (*cell["source"], *printed):
                yield f"{path.name}: cell {number}", line


def messages():
    """(place, text) of every constant part of an error that a user reads."""
    for path, tree in trees("."):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path}:{part.lineno}", part.value


HELP, MESSAGES = list(help_texts()), list(messages())
DOCSTRINGS, NAMES, NOTEBOOKS = list(docstrings()), list(names_of_tests()), list(notebook_texts())


def test_there_are_texts_to_read():
    assert len(HELP) > 150
    assert len(MESSAGES) > 300
    assert len(DOCSTRINGS) > 1500
    assert len(NAMES) > 1000
    assert len(NOTEBOOKS) > 800


@pytest.mark.parametrize("texts", [HELP], ids=["help"])
def test_no_help_text_is_a_fragment(texts):
    assert [(place, text) for place, text in texts if FRAGMENT.match(text)] == []


@pytest.mark.parametrize(
    "texts",
    [HELP, MESSAGES, DOCSTRINGS, NAMES, NOTEBOOKS],
    ids=["help", "messages", "docstrings", "names of tests", "notebooks"],
)
def test_texts_use_the_fields_words(texts):
    assert [(place, text) for place, text in texts if WORDS.search(text)] == []


@pytest.mark.parametrize("bad", ["Of them.", "As the source.", "Likewise of the label."])
def test_a_fragment_is_seen(bad):
    assert FRAGMENT.match(bad)
