"""Help texts and messages use the field's words, see docs/glossary.md and CONTRIBUTING.md."""

import ast
import inspect
import re

import pytest

from helpers.packages import PACKAGE

# Fragments that cannot be understood without the line before them.
FRAGMENT = re.compile(r"(Of|As|Its|That|Those|Likewise)\b")
# Words with a standard term in the field, as whole words.
WORDS = re.compile(
    r"\b(pictures?|floors?|keyed|anew|mend(s|ed)?|gone on with|goes? on with|sick(ness)?|wish(es)?"
    r"|dearest|twins?|trainings|in words|left out|told)\b",
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
    for path, tree in trees("cli", "config", "augment/image"):
        for node in ast.walk(tree):
            is_config = isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.dump(decorator) for decorator in node.decorator_list
            )
            if is_config and (text := ast.get_docstring(node)):
                head, _, entries = inspect.cleandoc(text).partition("Attributes:\n")
                yield f"{path}: {node.name}", head
                for name, entry in ENTRY.findall(entries):
                    yield f"{path}: {node.name}.{name}", entry


def messages():
    """(place, text) of every constant part of an error that a user reads."""
    for path, tree in trees("."):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path}:{part.lineno}", part.value


HELP, MESSAGES = list(help_texts()), list(messages())


def test_there_are_texts_to_read():
    assert len(HELP) > 150
    assert len(MESSAGES) > 300


@pytest.mark.parametrize("texts", [HELP], ids=["help"])
def test_no_help_text_is_a_fragment(texts):
    assert [(place, text) for place, text in texts if FRAGMENT.match(text)] == []


@pytest.mark.parametrize("texts", [HELP, MESSAGES], ids=["help", "messages"])
def test_texts_use_the_fields_words(texts):
    assert [(place, text) for place, text in texts if WORDS.search(text)] == []


@pytest.mark.parametrize("bad", ["Of them.", "As the source.", "Likewise of the label."])
def test_a_fragment_is_seen(bad):
    assert FRAGMENT.match(bad)
