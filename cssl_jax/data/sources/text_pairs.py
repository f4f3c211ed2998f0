"""Pairs of sentences with a score of their similarity, such as the STS benchmark."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from cssl_jax.data.sources.text import Table, read_table
from cssl_jax.errors import MissingDataError, UserError, short

COLUMNS = ("sentence1", "sentence2", "score")
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_HELP = (
    f"give a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file with {', '.join(COLUMNS)}, or a "
    "file of the STS benchmark"
)
# The STS benchmark's own files: no header, cells between tabs, quotes are text.
_STS_CELLS, _STS_SCORE, _STS_FIRST, _STS_SECOND = 7, 4, 5, 6


class Pairs(NamedTuple):
    """Pairs of sentences.

    Attributes:
        name: Name of the file.
        first: First sentence of every pair.
        second: Second sentence of every pair.
        score: Similarity as people rated it, float64 [N], higher is more similar.
    """

    name: str
    first: list[str]
    second: list[str]
    score: np.ndarray


def open_pairs(source: str | os.PathLike[str]) -> Pairs:
    """Opens pairs of sentences with scores.

    Args:
        source: A .csv, .tsv, .jsonl or .parquet file with sentence1, sentence2 and score; or
            sts-train.csv, sts-dev.csv or sts-test.csv of the STS benchmark.

    Raises:
        MissingDataError: The file does not exist.
        UserError: The file cannot be read, or has no pairs with different scores.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise MissingDataError(f"data source {str(source)!r} is no file; {_HELP}")
    if path.suffix not in _SUFFIXES:
        raise UserError(f"data source {str(source)!r} has an unknown suffix; {_HELP}")
    table = _sts_benchmark(path) or read_table(path)
    if missing := [name for name in COLUMNS if name not in table.names]:
        raise UserError(f"{path} has no {missing[0]!r}; {_HELP}")
    first, second, score = (table.names.index(name) for name in COLUMNS)
    pairs = [(row[first], row[second], row[score]) for row in table.rows]
    scores = np.array([_number(value, path, i) for i, (_, _, value) in enumerate(pairs, start=1)])
    if len(np.unique(scores)) < 2:
        raise UserError(
            f"{path} has {len(scores)} pairs and {len(np.unique(scores))} different scores; a rank "
            "correlation needs at least two"
        )
    left, right = (
        [_text(pair[k], path, i) for i, pair in enumerate(pairs, start=1)] for k in (0, 1)
    )
    return Pairs(path.name, left, right, scores)


def _sts_benchmark(path: pathlib.Path) -> Table | None:
    """The table of a file of the STS benchmark; None for another file."""
    if path.suffix not in (".csv", ".tsv"):
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        return None  # the reader of tables reports it
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    if not rows or any(len(row) < _STS_CELLS or not _is_number(row[_STS_SCORE]) for row in rows):
        return None
    cells = _STS_FIRST, _STS_SECOND, _STS_SCORE
    return Table(list(COLUMNS), [[row[cell] for cell in cells] for row in rows])


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _number(value: Any, path: pathlib.Path, number: int) -> float:
    if not isinstance(value, str | int | float) or not _is_number(str(value)):
        raise UserError(f"{path}: the score of pair {number} is {short(value)}; give a number")
    return float(value)


def _text(value: Any, path: pathlib.Path, number: int) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: a sentence of pair {number} is {short(value)}; give text")
    return value.encode("utf-8", "replace").decode("utf-8").strip()
