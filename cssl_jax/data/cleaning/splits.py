"""Train, validation and test lists of a set of pictures, the same on every machine."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning.check import examine
from cssl_jax.data.cleaning.near_duplicates import near_duplicates
from cssl_jax.data.cleaning.scan import check_share
from cssl_jax.data.formats.image_folder import FileRecords
from cssl_jax.errors import UserError
from cssl_jax.files import csv_text, to_bytes, write_text

PARTS = ("train", "validation", "test")


def split(
    names: Sequence[str],
    labels: np.ndarray | None,
    groups: Sequence[tuple[int, ...]],
    *,
    fractions: Sequence[float],
    seed: int,
) -> list[np.ndarray]:
    """Splits pictures by class, near-duplicates together, by a keyed hash of their names.

    Within a class, groups (mostly of one picture) are ordered by the hash of the seed and their
    first name and dealt to the part that is furthest behind its share: each part is within one
    group of its share of each class. Neither the order of the files nor the machine matters.

    Args:
        names: Of the pictures.
        labels: int [n]; or None.
        groups: Numbers of near-duplicates, which stay on one side; the rest are on their own.
        fractions: Of each part, summing to 1.
        seed: Of the order.

    Returns:
        Sorted numbers of each part.

    Raises:
        UserError: The fractions are no shares of a whole.
    """
    if any(f < 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions are {tuple(fractions)}; give shares of 0 or more that sum to 1")
    grouped = {i for group in groups for i in group}
    units = [*groups, *((i,) for i in range(len(names)) if i not in grouped)]

    def key(unit: tuple[int, ...]) -> bytes:
        name = min(names[i] for i in unit)
        return hashlib.blake2b(to_bytes(f"{seed}|{name}"), digest_size=16).digest()

    parts: list[list[int]] = [[] for _ in fractions]
    classes = np.zeros(len(names), int) if labels is None else labels
    dealt = {int(c): np.zeros(len(fractions)) for c in np.unique(classes)}
    for unit in sorted(units, key=key):
        counts = dealt[int(classes[min(unit, key=lambda i: names[i])])]
        wanted = np.array(fractions) * (counts.sum() + len(unit)) - counts
        wanted[np.array(fractions) == 0] = -np.inf
        part = int(wanted.argmax())
        counts[part] += len(unit)
        parts[part] += unit
    return [np.array(sorted(part), np.int64) for part in parts]


def write_lists(
    records: FileRecords, parts: Sequence[np.ndarray], folder: pathlib.Path
) -> list[tuple[pathlib.Path, int]]:
    """Writes a list a part: path (relative to the list), label (a number), class (its name).

    A list of an empty part is taken away: it would be of an earlier split, whose parts overlap.

    Returns:
        (file, number of pictures) of every part that is not empty.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.csv" for name in PARTS]
        for path in paths:
            if (target := pathlib.Path(os.path.realpath(path))).is_file():
                target.unlink()  # not a link, which stays
        return [
            (_write(records, part, path), len(part))
            for path, part in zip(paths, parts, strict=True)
            if len(part)
        ]
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def split_source(
    source: str,
    folder: pathlib.Path,
    options: ImageOptions,
    *,
    fractions: Sequence[float],
    seed: int,
) -> list[tuple[pathlib.Path, int]]:
    """Scans a folder or list, leaves out what is broken, splits the rest and writes the lists.

    Raises:
        UserError: More is broken than ``options.max_rejected`` allows, or the fractions are no
            shares of a whole.
    """
    records, index, _ = examine(source, options)
    if not isinstance(records, FileRecords):
        raise UserError(f"{source} is no folder or list of files; its splits are its own")
    check_share(index, records.name, options.max_rejected)
    kept = index.kept
    records = dataclasses.replace(
        records,
        names=tuple(records.names[i] for i in kept),
        stamps=tuple(records.stamps[i] for i in kept),
        labels=None if records.labels is None else records.labels[kept],
    )
    groups = near_duplicates(index.phash[kept])
    parts = split(records.names, records.labels, groups, fractions=fractions, seed=seed)
    return write_lists(records, parts, folder)


def _write(records: FileRecords, part: np.ndarray, path: pathlib.Path) -> pathlib.Path:
    labelled = records.labels is not None
    rows: list[tuple[Any, ...]] = [("path", "label", "class") if labelled else ("path",)]
    prefix = os.path.relpath(records.root, path.parent)
    for i in part:
        place = pathlib.Path(prefix, records.names[i]).as_posix()
        number = -1 if records.labels is None else int(records.labels[i])
        label = (number, records.classes[number]) if number >= 0 else ("", "")
        rows.append((place, *label) if labelled else (place,))
    write_text(path, csv_text(rows))
    return path
