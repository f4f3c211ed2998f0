"""Examination and splitting of a set of recordings."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax.data.cleaning import audio_check, splits
from cssl_jax.data.sources.audio import decode_files
from cssl_jax.experiment.set_check import SetCheck
from cssl_jax.files import csv_text, write_text


def check_audio(source: str, labels: str = "auto") -> SetCheck:
    """Examines recordings: rates, lengths, silence, clipping, duplicates, labels, damaged files.

    Args:
        source: Folder or .csv list, given as ``data.source`` of a run.
        labels: Labels of a folder, as ``data.labels``.

    Raises:
        UserError: The source does not exist, or is no set of recordings.
    """
    content = audio_check.summarize(decode_files(source, labels=labels))
    return SetCheck(content, audio_check.report(content))


def split_audio(
    source: str,
    output: str | pathlib.Path,
    *,
    labels: str = "auto",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.csv, validation.csv and test.csv for ``data.source``.

    A group is in one list. Without groups, every list has about the same fraction of each class.
    Files that cannot be decoded, and copies of other files, are in no list.

    Args:
        source: Folder or .csv list.
        output: Folder to write the lists to; it is created if it does not exist.
        labels: Labels of a folder, as ``data.labels``.
        fractions: Fractions of the recordings in the training, validation and test split. They sum
            to 1.
        seed: Seed of the order.

    Returns:
        Path and number of recordings of every list that is not empty.

    Raises:
        UserError: The source is no set of recordings, the fractions do not sum to 1, or the output
            cannot be written.
    """
    decoded = decode_files(source, labels=labels)
    records = decoded.records
    kept = np.flatnonzero([recording is not None for recording in decoded.recordings])
    names = [records.names[i] for i in kept]
    classes = None if records.labels is None else records.labels[kept]
    units: list[tuple[int, ...]] = []
    if records.groups is not None:
        groups = np.array(records.groups)[kept]
        units = [tuple(np.flatnonzero(groups == name).tolist()) for name in np.unique(groups)]
        classes = None  # a group mostly has several classes: the number of recordings decides
    parts = splits.split(names, classes, units, fractions=fractions, seed=seed)
    folder = pathlib.Path(output).expanduser().absolute()
    header = ["path", *(["label"] if records.labels is not None else [])]
    header += ["group"] if records.groups is not None else []

    def write(part: np.ndarray, path: pathlib.Path) -> None:
        rows = [_row(records, int(kept[i]), folder) for i in part]
        write_text(path, csv_text([header, *rows]))

    return splits.write_parts(folder, parts, "csv", write)


def _row(records: Any, number: int, folder: pathlib.Path) -> list[str]:
    row = [pathlib.PurePath(os.path.relpath(records.path(number), folder)).as_posix()]
    if records.labels is not None:
        label = int(records.labels[number])
        row.append("" if label < 0 else records.classes[label] if records.classes else str(label))
    if records.groups is not None:
        row.append(records.groups[number])
    return row
