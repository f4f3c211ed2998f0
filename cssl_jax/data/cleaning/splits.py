"""Train, validation and test lists of a set of images, identical on every machine."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning.check import scan_source
from cssl_jax.data.cleaning.near_duplicates import near_duplicates
from cssl_jax.data.cleaning.scan import check_rejected_fraction
from cssl_jax.data.formats.image_folder import FileRecords
from cssl_jax.data.sources.base import ArraySource
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
    """Divides images into stratified splits by a seeded hash of their names.

    Near-duplicates stay in one split. Within a class, groups (mostly of one image) are ordered by
    the hash of the seed and their first name. Each goes to the split that is furthest below its
    target, so each split is within one group of its fraction of each class. The order of the files
    and the machine do not matter.

    Args:
        names: Names of the n images.
        labels: int [n], class numbers; None for images without labels.
        groups: Groups of near-duplicates, as image numbers. Every other image is its own group.
        fractions: Fraction of the images in each split; they sum to 1.
        seed: Seed of the order.

    Returns:
        Sorted image numbers int64 of each split.

    Raises:
        UserError: A fraction is negative, or the fractions do not sum to 1.
    """
    if any(f < 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"fractions are {tuple(fractions)}; give fractions of 0 or more that sum to 1"
        )
    grouped = {i for group in groups for i in group}
    units = [*groups, *((i,) for i in range(len(names)) if i not in grouped)]

    def hash_key(unit: tuple[int, ...]) -> bytes:
        name = min(names[i] for i in unit)
        return hashlib.blake2b(to_bytes(f"{seed}|{name}"), digest_size=16).digest()

    parts: list[list[int]] = [[] for _ in fractions]
    classes = np.zeros(len(names), int) if labels is None else labels
    class_counts = {int(c): np.zeros(len(fractions)) for c in np.unique(classes)}
    for unit in sorted(units, key=hash_key):
        # A group that spans several classes counts for the class of its first name.
        counts = class_counts[int(classes[min(unit, key=lambda i: names[i])])]
        deficit = np.array(fractions) * (counts.sum() + len(unit)) - counts
        deficit[np.array(fractions) == 0] = -np.inf  # a split of fraction 0 stays empty
        part = int(deficit.argmax())
        counts[part] += len(unit)
        parts[part] += unit
    return [np.array(sorted(part), np.int64) for part in parts]


def split_arrays(
    source: ArraySource,
    duplicates: Callable[[ArraySource], Sequence[Sequence[int]]],
    *,
    fractions: Sequence[float],
    seed: int,
) -> list[np.ndarray]:
    """Divides examples in memory, see ``split``; a group of the source stays in one part.

    Args:
        source: Examples; those without names are hashed by their number.
        duplicates: Function that finds the numbers of identical examples, which stay together; it
            is called for a source without groups.
        fractions: Fraction of the examples in each part; they sum to 1.
        seed: Seed of the order.

    Raises:
        UserError: A fraction is negative, or the fractions do not sum to 1.
    """
    names = [f"{number:09}" for number in range(len(source))]
    if source.names is not None:
        names = source.names.tolist()
    if source.groups is None:
        units = [tuple(numbers) for numbers in duplicates(source)]
        return split(names, source.labels, units, fractions=fractions, seed=seed)
    # A group mostly has examples of several classes: their number decides, not the classes.
    return split(names, None, group_members(source.groups), fractions=fractions, seed=seed)


def group_members(groups: np.ndarray) -> list[tuple[int, ...]]:
    """Numbers of the examples of each group, from the name of every example's group, [n]."""
    return [tuple(np.flatnonzero(groups == name).tolist()) for name in np.unique(groups)]


def write_parts(
    folder: pathlib.Path,
    parts: Sequence[np.ndarray],
    suffix: str,
    write: Callable[[np.ndarray, pathlib.Path], None],
) -> list[tuple[pathlib.Path, int]]:
    """Writes one file per split.

    An existing file of an empty split is deleted: it would belong to an earlier division, whose
    splits overlap with these.

    Args:
        folder: Folder of the files; created if it does not exist.
        parts: Numbers of the examples in the training, validation and test split.
        suffix: Suffix of the files, such as "csv".
        write: Writes the examples of a split to a path.

    Returns:
        Path of the file and number of examples, for every split that is not empty.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = folder.expanduser().absolute()
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{suffix}" for name in PARTS]
        for path in paths:
            if (target := pathlib.Path(os.path.realpath(path))).is_file():
                target.unlink()  # deletes the target of a symbolic link and keeps the link
        for path, part in zip(paths, parts, strict=True):
            if len(part):
                write(part, path)
                written.append((path, len(part)))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return written


def split_source(
    source: str,
    folder: pathlib.Path,
    options: ImageOptions,
    *,
    fractions: Sequence[float],
    seed: int,
) -> list[tuple[pathlib.Path, int]]:
    """Scans a folder or list, excludes broken images, divides the rest and writes the lists.

    Args:
        source: Folder of images, or list of image files.
        folder: Folder of the lists; created if it does not exist.
        options: Image options of the run.
        fractions: Fraction of the images in the training, validation and test split.
        seed: Seed of the order.

    Returns:
        Path of the list and number of images, for every split that is not empty.

    Raises:
        UserError: More images are excluded than ``options.max_rejected`` allows, the fractions do
            not sum to 1, the source is no folder or list, or ``folder`` cannot be written.
    """
    records, index, _ = scan_source(source, options)
    if not isinstance(records, FileRecords):
        raise UserError(
            f"{source} is not a folder or list of files; only these can be split, other formats "
            "define their own splits"
        )
    check_rejected_fraction(index, records.name, options.max_rejected)
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


def write_lists(
    records: FileRecords, parts: Sequence[np.ndarray], folder: pathlib.Path
) -> list[tuple[pathlib.Path, int]]:
    """Writes one CSV list per split, with path (relative to the list), label number and class name.

    Args:
        records: Records that are divided.
        parts: Record numbers of the training, validation and test split.
        folder: Folder of the lists; created if it does not exist.

    Returns:
        Path of the list and number of images, for every split that is not empty.

    Raises:
        UserError: The folder cannot be written.
    """
    return write_parts(folder, parts, "csv", functools.partial(_write, records))


def _write(records: FileRecords, part: np.ndarray, path: pathlib.Path) -> None:
    labelled = records.labels is not None
    rows: list[tuple[Any, ...]] = [("path", "label", "class") if labelled else ("path",)]
    prefix = os.path.relpath(records.root, path.parent)
    for i in part:
        path_in_list = pathlib.Path(prefix, records.names[i]).as_posix()
        number = -1 if records.labels is None else int(records.labels[i])
        label = (number, records.classes[number]) if number >= 0 else ("", "")
        rows.append((path_in_list, *label) if labelled else (path_in_list,))
    write_text(path, csv_text(rows))
