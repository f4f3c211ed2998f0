"""Files of texts: their examination, their split, and those that the package writes."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax.config import TextData
from cssl_jax.data.cleaning import splits, text_check
from cssl_jax.data.cleaning.set_check import SetCheck
from cssl_jax.data.sources.text import open_text


def write(source: Any, data: TextData, count: int, path: pathlib.Path) -> str:
    """Writes the texts of a source, or random words, to a .jsonl file; returns its path."""
    path = path.with_suffix(".jsonl")
    if source is None:
        rng = np.random.default_rng(0)
        words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(64)]
        rows: list[dict[str, Any]] = [
            {data.text_column: " ".join(rng.choice(words, rng.integers(3, 9)))}
            for _ in range(count)
        ]
    else:
        rows = [{data.text_column: text} for text in source.examples["text"]]
        for member in (name for name in source.examples if name != "text"):
            for row, value in zip(rows, source.examples[member], strict=True):
                row[member] = value
        for name, values in (("label", source.labels), ("group", source.groups)):
            for row, value in zip(rows, [] if values is None else values.tolist(), strict=False):
                row[name] = _class_name(source, value) if name == "label" else value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _class_name(source: Any, label: int) -> Any:
    if label < 0:
        return None
    return source.classes[label] if source.classes else label


def examine(source: str, options: Any) -> SetCheck:
    """Examines a set of texts; there are no options."""
    return check_texts(source)


def divide(
    source: str, output: pathlib.Path, options: Any, fractions: Sequence[float], seed: int
) -> list[tuple[pathlib.Path, int]]:
    """Splits a set of texts; there are no options."""
    return split_texts(source, output, fractions=fractions, seed=seed)


def check_texts(source: str) -> SetCheck:
    """Examines a set of texts: lengths, duplicates, undecoded characters, labels.

    Args:
        source: Texts, given as ``data.source`` of a run: a .txt, .jsonl, .csv, .tsv or .parquet
            file.

    Raises:
        UserError: The source does not exist, or is no set of texts.
    """
    content = text_check.summarize(open_text(source))
    return SetCheck(content, text_check.report(content))


def split_texts(
    source: str,
    output: str | pathlib.Path,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.jsonl, validation.jsonl and test.jsonl for ``data.source``.

    Without groups, every file has about the same fraction of each class, and identical texts are in
    one file. A group is in one file. The same file and seed give the same result on any machine.

    Args:
        source: A .txt, .jsonl, .csv, .tsv or .parquet file.
        output: Folder to write the files to; it is created if it does not exist.
        fractions: Fractions of the texts in the training, validation and test split. They sum to 1.
        seed: Seed of the order.

    Returns:
        Path and number of texts of every file that is not empty.

    Raises:
        UserError: The source is no set of texts, the fractions do not sum to 1, or the output
            cannot be written.
    """
    opened = open_text(source)
    parts = splits.split_arrays(opened, text_check.duplicates, fractions=fractions, seed=seed)

    def write_part(part: np.ndarray, path: pathlib.Path) -> None:
        write(opened.take(part), TextData(), 0, path)

    return splits.write_parts(pathlib.Path(output), parts, "jsonl", write_part)
