"""Examination and splitting of a set of texts."""

import pathlib
from collections.abc import Sequence

import numpy as np

from cssl_jax.config import TextData
from cssl_jax.data.cleaning import splits, text_check
from cssl_jax.data.sources.text import open_text
from cssl_jax.experiment.set_check import SetCheck
from cssl_jax.modalities import text


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
    groups = opened.groups
    if groups is None:
        units, labels = [tuple(one) for one in text_check.duplicates(opened)], opened.labels
    else:  # a group mostly has texts of several classes: their number decides, not the classes
        units = [tuple(np.flatnonzero(groups == name).tolist()) for name in np.unique(groups)]
        labels = None
    names = [f"{number:09}" for number in range(len(opened))]
    parts = splits.split(names, labels, units, fractions=fractions, seed=seed)

    def write(part: np.ndarray, path: pathlib.Path) -> None:
        text.write(opened.take(part), TextData(), 0, path)

    return splits.write_parts(pathlib.Path(output), parts, "jsonl", write)
