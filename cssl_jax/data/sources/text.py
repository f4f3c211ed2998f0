"""Sources of text: lines, JSON lines and tables."""

import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cssl_jax.data.formats.schema import is_whole_number, number_labels
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import MissingDataError, UserError, short

LABEL, GROUP = "label", "group"
ANCHOR, POSITIVE, NEGATIVE = "anchor", "positive", "negative"
LABEL_RULES = ("auto", "none")
HELP = (
    "give a .txt file with one text per line, a .jsonl file with one object per line, or a .csv, "
    ".tsv or .parquet table with one row per text and the column text"
)


class Table(NamedTuple):
    """Columns of a file: the values of every row, None where one is missing.

    Attributes:
        names: Names of the columns.
        rows: One list of values per row, in the order of the names.
    """

    names: list[str]
    rows: list[list[Any]]


def open_text(
    source: str | os.PathLike[str], *, column: str = "text", labels: str = "auto"
) -> ArraySource:
    """Opens a file of texts. White space around a text is removed, and empty texts are omitted.

    Args:
        source: Path of a .txt, .jsonl, .csv, .tsv or .parquet file; see ``config.text.TextData``.
        column: Column or key of the text; a .txt file has none.
        labels: "auto" for the column label, "none" to ignore it.

    Returns:
        Source whose examples are {"text": object [N]}, str each. A table with the column positive,
        and optionally negative, adds those texts under these names; the text itself may then be in
        the column anchor.

    Raises:
        MissingDataError: The file does not exist.
        UserError: The file cannot be read, or has no text.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise MissingDataError(f"data source {str(source)!r} is no file; {HELP}")
    if path.suffix not in _READERS:
        raise UserError(f"data source {str(source)!r} has an unknown suffix; {HELP}")
    check_labels(labels)
    table = read_table(path)
    name = "text" if path.suffix == ".txt" else column
    if name not in table.names and {ANCHOR, POSITIVE} <= set(table.names):
        name = ANCHOR
    if name not in table.names:
        listed = ", ".join(map(short, table.names[:8]))
        raise UserError(
            f"{path} has the columns {listed}, and none is {column!r}; give that of the text by "
            "--data.text-column"
        )
    columns = {"text": name, **{x: x for x in _others(table)}}
    texts = {
        member: [_text(value, path, i) for i, value in enumerate(_column(table, x), start=1)]
        for member, x in columns.items()
    }
    kept = [i for i, row in enumerate(zip(*texts.values(), strict=True)) if all(row)]
    if not kept:
        raise UserError(f"{path} has no text; {HELP}")
    empty = len(texts["text"]) - len(kept)
    groups = _groups(table, kept, path) if GROUP in table.names else None
    numbers: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    if LABEL in table.names and labels == "auto":
        values = [_column(table, LABEL)[i] for i in kept]
        numbers, classes = number_labels(_typed(values), str(path))
    return ArraySource(
        path.name,
        {x: text_examples([found[i] for i in kept])["text"] for x, found in texts.items()},
        numbers,
        classes=classes,
        groups=groups,
        notes=_notes(path, list(texts), empty),
    )


def _others(table: Table) -> list[str]:
    """Columns with further texts of an example: positive, and negative beside it."""
    if POSITIVE not in table.names:
        return []
    return [POSITIVE, *([NEGATIVE] if NEGATIVE in table.names else [])]


def _notes(path: pathlib.Path, members: list[str], empty: int) -> tuple[str, ...]:
    found = []
    if len(members) > 1:
        found.append(f"{path.name}: each example has a text, {' and '.join(members[1:])}")
    if empty:
        what = "empty texts" if len(members) == 1 else "rows with an empty text"
        found.append(f"{path.name}: {empty:,} {what} are omitted")
    return tuple(found)


def all_texts(source: ArraySource) -> list[str]:
    """The texts of all examples, positives and negatives included, each column after another."""
    return [text for texts in source.examples.values() for text in texts.tolist()]


def text_examples(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Examples {"text": object [N]} of N texts."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return {"text": array}


def check_labels(labels: str) -> None:
    """Raises UserError if ``data.labels`` is a rule that text does not have."""
    if labels not in LABEL_RULES:
        raise UserError(
            f"data.labels is {labels!r}, which is for images in folders; texts have the labels of "
            "their file (column label): give --data.labels auto, or none to ignore them"
        )


def is_text_file(source: str) -> bool:
    """True if a file holds texts rather than images or series, by its suffix and its columns.

    A file that cannot be read is none.
    """
    path = pathlib.Path(source).expanduser()
    if path.suffix in (".txt", ".jsonl", ".tsv"):
        return path.is_file()
    try:
        # A list of images or recordings may have a column of their descriptions.
        return (
            path.suffix in (".csv", ".parquet")
            and ("text" in (names := set(_header(path))) or {ANCHOR, POSITIVE} <= names)
            and not {"path", "image"} & names
        )
    except (OSError, ValueError, csv.Error, UserError):
        return False


def read_table(path: pathlib.Path) -> Table:
    """Reads a file of rows by its suffix.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        return _READERS[path.suffix](path)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's and UnicodeDecodeError too
        reason = short(str(error).partition("\n")[0])
        raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {reason}") from error


def _txt(path: pathlib.Path) -> Table:
    # Not str.splitlines: it also splits at form feeds and at other separators within a text.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    return Table(["text"], [[line] for line in lines])


def _jsonl(path: pathlib.Path) -> Table:
    names: dict[str, None] = {}
    objects = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(found, dict):
                raise ValueError(f'line {number} is no object such as {{"text": ...}}')
            names.update(dict.fromkeys(found))
            objects.append(found)
    return Table(list(names), [[found.get(name) for name in names] for found in objects])


def _separated(path: pathlib.Path) -> Table:
    """A .csv file with quotes, or a .tsv file without; the first row has the names."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(_rows(file, path))
    if not rows:
        raise ValueError("it is empty")
    names, *body = rows
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    for number, row in enumerate(body, start=2):
        if row and len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells, and the header has {len(names)}")
    return Table(names, [row or [""] * len(names) for row in body])


def _rows(file: Any, path: pathlib.Path) -> Iterator[list[str]]:
    if path.suffix == ".tsv":
        yield from (line.rstrip("\r\n").split("\t") for line in file)
    else:
        yield from csv.reader(file, strict=True)


def _parquet(path: pathlib.Path) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(str(path))
    columns = [column.to_pylist() for column in table.columns]
    return Table(table.column_names, [list(row) for row in zip(*columns, strict=True)])


def _header(path: pathlib.Path) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        names: list[str] = pq.read_schema(str(path)).names
        return names
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def _column(table: Table, name: str) -> list[Any]:
    place = table.names.index(name)
    return [row[place] for row in table.rows]


def _text(value: Any, path: pathlib.Path, number: int) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{path}: text {number} is {short(value)}; give text")
    # A lone surrogate, which JSON can hold, is no character: no tokenizer takes it.
    text = (value or "").encode("utf-8", "replace").decode("utf-8")
    return text.strip()


def _groups(table: Table, kept: list[int], path: pathlib.Path) -> np.ndarray:
    values = _column(table, GROUP)
    groups = ["" if values[i] is None else str(values[i]).strip() for i in kept]
    if "" in groups:
        raise UserError(
            f"{path}: row {kept[groups.index('')] + 1} has no group; give every text one"
        )
    return np.array(groups, str)


def _typed(labels: Sequence[Any]) -> list[object]:
    """Labels, as whole numbers if all of them are texts of whole numbers."""
    given = [x.strip() if isinstance(x, str) else x for x in labels]
    texts = [x for x in given if isinstance(x, str) and x]
    if texts and all(map(is_whole_number, texts)):
        return [int(x) if isinstance(x, str) and x else x or None for x in given]
    return [x if x != "" else None for x in given]


_READERS: dict[str, Callable[[pathlib.Path], Table]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
