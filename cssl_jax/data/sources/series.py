"""Sources of series: .npz files, long tables, and the .ts files of the UCR and UEA archives."""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cssl_jax.data.formats.schema import dense_numbers
from cssl_jax.data.sources.arrays import read_npz
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.long_table import LAYOUT, is_long_table, read_long_table
from cssl_jax.errors import MissingDataError, UserError

LABEL_RULES = ("auto", "none")
_HELP = (
    "give an .npz file with an array 'values' (float [N, T, C] or [N, T]) and optionally 'lengths' "
    f"(int [N]), 'labels' and 'groups'; a .csv or .parquet table, {LAYOUT}; or a .ts file"
)


def open_series(source: str | os.PathLike[str], labels: str = "auto") -> ArraySource:
    """Opens a file of series.

    Args:
        source: Path of an .npz, .csv, .parquet or .ts file; see ``config.series.SeriesData``.
        labels: "auto" for the labels of the file, "none" to ignore them.

    Returns:
        Source whose examples are {"values": float32 [N, T, C], "length": int32 [N]}. NaN is a
        missing value. Steps from the length on are 0.

    Raises:
        MissingDataError: The file does not exist.
        UserError: The file cannot be read, or has no series.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise MissingDataError(f"data source {str(source)!r} is no file; {_HELP}")
    if path.suffix not in _READERS:
        raise UserError(f"data source {str(source)!r} has an unknown suffix; {_HELP}")
    check_labels(labels)
    opened = _READERS[path.suffix](path)
    return opened if labels == "auto" else dataclasses.replace(opened, labels=None, classes=())


def is_series_file(source: str) -> bool:
    """True if a file holds series rather than images, by its suffix and the names in it.

    A file that cannot be read is none.
    """
    path = pathlib.Path(source).expanduser()
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return "values" in content.files
        return path.suffix == ".ts" or (path.suffix in (".csv", ".parquet") and is_long_table(path))
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def check_labels(labels: str) -> None:
    """Raises UserError if ``data.labels`` is a rule that series do not have."""
    if labels not in LABEL_RULES:
        raise UserError(
            f"data.labels is {labels!r}, which is for images in folders; series have the labels of "
            "their file (array labels of an .npz, column label of a .csv or .parquet table, end of "
            "a line of a .ts file): give --data.labels auto, or none to ignore them"
        )


def series_examples(values: Any, where: str, lengths: Any = None) -> dict[str, np.ndarray]:
    """Examples of arrays of series.

    Args:
        values: Numbers [N, T, C] or [N, T], or a sequence of N arrays [T_i, C] or [T_i] of
            different lengths. NaN is a missing value.
        where: Name of the data, for messages.
        lengths: int [N], number of steps of every series; None: all T, or those of the sequence.
            Steps at the end that are NaN in all channels of a series are then padding.

    Raises:
        UserError: The shapes do not match, a value is infinite, or a series has no step.
    """
    if not isinstance(values, np.ndarray):
        values, lengths = _padded([np.asarray(one) for one in values], where)
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3) or 0 in values.shape:
        raise UserError(
            f"{where}: values are {values.dtype} {values.shape}; give numbers [N, T, C] or [N, T]"
        )
    values = values.reshape(*values.shape[:2], -1).astype(np.float32)
    given = np.isfinite(values) | np.isnan(values)
    if not given.all():
        raise UserError(
            f"{where}: series {np.argwhere(~given)[0][0]} has an infinite value, or one beyond "
            "float32; give finite numbers, and NaN where a value is missing"
        )
    steps = values.shape[1]
    if lengths is None:
        known = ~np.isnan(values).all(axis=2)
        lengths = np.where(known.any(axis=1), steps - known[:, ::-1].argmax(axis=1), 0)
    lengths = np.asarray(lengths)
    if lengths.shape != values.shape[:1] or lengths.dtype.kind not in "iu":
        raise UserError(
            f"{where}: lengths are {lengths.dtype} {lengths.shape}, but there are {len(values)} "
            "series; give one whole number per series"
        )
    if lengths.min() < 1 or lengths.max() > steps:
        raise UserError(
            f"{where}: lengths are from {lengths.min()} to {lengths.max()}; give one number from 1 "
            f"to {steps}, the number of steps that are stored, per series"
        )
    padding = np.arange(steps) >= lengths[:, None]
    values[padding] = 0
    return {"values": values, "length": lengths.astype(np.int32)}


def _padded(series: Sequence[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [T_i, C] or [T_i] -> (values [N, T, C], lengths [N])."""
    shapes = {one.shape[1:] for one in series}
    if len(shapes) != 1 or max(len(shape) for shape in shapes) > 1:
        raise UserError(
            f"{where}: series have shapes {sorted({one.shape for one in series})[:3]}; give arrays "
            "[T, C] or [T] with the same number of channels"
        )
    channels = max(1, *shapes.pop(), 1)
    longest = max(len(one) for one in series)
    values = np.zeros((len(series), max(longest, 1), channels))
    for row, one in zip(values, series, strict=True):
        row[: len(one)] = one.reshape(len(one), channels)
    return values, np.array([len(one) for one in series])


def _npz(path: pathlib.Path) -> ArraySource:
    arrays = read_npz(path, ("values",), ("lengths", "labels", "classes", "groups"))
    examples = series_examples(arrays["values"], str(path), arrays.get("lengths"))
    groups = _groups(path, arrays.get("groups"), len(examples["length"]))
    return dataclasses.replace(_labelled_npz(path, examples, arrays), groups=groups)


def _groups(path: pathlib.Path, groups: np.ndarray | None, count: int) -> np.ndarray | None:
    """Groups as text, str [N]."""
    if groups is None:
        return None
    if groups.shape != (count,) or groups.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: groups are {groups.dtype} {groups.shape}, but there are {count} series; give "
            "one whole number or name per series"
        )
    return groups.astype(str)


def _labelled_npz(
    path: pathlib.Path, examples: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> ArraySource:
    """Source with the labels of an .npz file, if it has some."""
    labels = arrays.get("labels")
    if labels is None:
        return ArraySource(path.name, examples)
    if labels.shape != examples["length"].shape or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: labels are {labels.dtype} {labels.shape}, but there are "
            f"{len(examples['length'])} series; give one whole number or name per series"
        )
    if labels.dtype.kind == "U":
        return _labelled(path, examples, labels.tolist())
    if labels.min() < -1:
        raise UserError(f"{path}: label {labels.min()} is negative; -1 stands for no label")
    numbers, classes = dense_numbers(labels, str(path), named="classes" in arrays)
    if "classes" in arrays:
        classes = tuple(map(str, arrays["classes"].tolist()))
        if numbers.max(initial=-1) >= len(classes):
            raise UserError(
                f"{path}: label {numbers.max()} has no name in the {len(classes)} classes; give "
                "one string per class number, starting at 0"
            )
    return ArraySource(path.name, examples, numbers, classes=classes)


def _table(path: pathlib.Path) -> ArraySource:
    """Source of a long table, whose examples are named by their ids."""
    table = read_long_table(path)
    return ArraySource(
        path.name,
        series_examples(table.series, str(path)),
        table.labels,
        names=table.names,
        classes=table.classes,
        # A column that was not meant as a channel is seen here.
        notes=(f"{path.name}: the channels are the columns {', '.join(table.channels)}",),
        groups=table.groups,
    )


def _labelled(path: pathlib.Path, examples: Any, names: Sequence[str]) -> ArraySource:
    """Source with labels by name; "" is no label."""
    classes = tuple(sorted({name for name in names if name}))
    number = {name: index for index, name in enumerate(classes)} | {"": -1}
    labels = np.array([number[name] for name in names], np.int64)
    return ArraySource(path.name, examples, labels if classes else None, classes=classes)


def _ts(path: pathlib.Path) -> ArraySource:
    """Series and class names of a .ts file: one series per line, channels separated by ":"."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable text file: {error}") from error
    header, rows = _split_header(lines)
    if header.get("timestamps", "false").startswith("true"):
        raise UserError(f"{path}: series with time stamps are not read; save values in an .npz")
    is_labelled = header.get("classlabel", "false").startswith("true")
    series, names = [], []
    for number, line in rows:
        *channels, label = line.split(":") if is_labelled else [*line.split(":"), ""]
        try:
            values = [[_number(word) for word in channel.split(",")] for channel in channels]
            series.append(np.array(values, np.float64).T)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no series: {error}") from error
        names.append(label.strip())
    if not series:
        raise UserError(f"{path} has no series after @data; {_HELP}")
    return _labelled(path, series_examples(series, str(path)), names)


def _split_header(lines: Iterable[str]) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """(fields before @data by name, numbered lines after it); comments and blank lines dropped."""
    header: dict[str, str] = {}
    rows: list[tuple[int, str]] = []
    in_data = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if in_data:
            rows.append((number, text))
        elif text.lower() == "@data":
            in_data = True
        elif text.startswith("@"):
            name, _, value = text[1:].partition(" ")
            header[name.lower()] = value.strip().lower()
    return header, rows


def _number(word: str) -> float:
    return np.nan if word.strip() == "?" else float(word)


_READERS = {".npz": _npz, ".csv": _table, ".parquet": _table, ".ts": _ts}
