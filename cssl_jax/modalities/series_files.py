"""Files of series: their examination, their split, and those that the package writes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax.config import SeriesData
from cssl_jax.data.cleaning import series_check, splits
from cssl_jax.data.cleaning.set_check import SetCheck
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.series import open_series

REDUCED_LENGTH = 32  # maximum number of steps of a view in a check


def reduced_length(data: SeriesData) -> int:
    """Maximum number of steps of a view in a check."""
    return min(data.length or REDUCED_LENGTH, REDUCED_LENGTH)


def write(source: ArraySource | None, data: SeriesData, count: int, path: pathlib.Path) -> str:
    """Writes the series of a source, or noise, to an .npz file; returns its path."""
    path = path.with_suffix(".npz")
    if source is None:
        rng = np.random.default_rng(0)
        steps = data.length or REDUCED_LENGTH
        arrays: dict[str, Any] = {
            "values": rng.normal(size=(count, steps, 1)).cumsum(axis=1).astype(np.float32),
            "lengths": rng.integers(steps // 2, steps + 1, count),
        }
    else:
        arrays = {"values": source.examples["values"], "lengths": source.examples["length"]}
        if source.labels is not None:
            arrays["labels"] = source.labels
            if source.classes:
                arrays["classes"] = np.array(source.classes)
        if source.groups is not None:
            arrays["groups"] = source.groups
    np.savez(path, **arrays)
    return str(path)


def examine(source: str, options: Any) -> SetCheck:
    """Examines a set of series; there are no options."""
    return check_series(source)


def divide(
    source: str, output: pathlib.Path, options: Any, fractions: Sequence[float], seed: int
) -> list[tuple[pathlib.Path, int]]:
    """Splits a set of series; there are no options."""
    return split_series(source, output, fractions=fractions, seed=seed)


def check_series(source: str) -> SetCheck:
    """Examines a set of series: lengths, missing values, constant channels, duplicates, labels.

    Args:
        source: Series, given as ``data.source`` of a run: an .npz, .csv, .parquet or .ts file.

    Raises:
        UserError: The source does not exist, or is no set of series.
    """
    content = series_check.summarize(open_series(source))
    return SetCheck(content, series_check.report(content))


def split_series(
    source: str,
    output: str | pathlib.Path,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.npz, validation.npz and test.npz for ``data.source``.

    Without groups, every file has about the same fraction of each class, and identical series are
    in one file. A group is in one file. The same file and seed give the same result on any machine.

    Args:
        source: An .npz, .csv, .parquet or .ts file.
        output: Folder to write the files to; it is created if it does not exist.
        fractions: Fractions of the series in the training, validation and test split. They sum to
            1.
        seed: Seed of the order.

    Returns:
        Path and number of series of every file that is not empty.

    Raises:
        UserError: The source is no set of series, the fractions do not sum to 1, or the output
            cannot be written.
    """
    opened = open_series(source)
    parts = splits.split_arrays(opened, series_check.duplicates, fractions=fractions, seed=seed)

    def write_part(part: np.ndarray, path: pathlib.Path) -> None:
        write(opened.take(part), SeriesData(), 0, path)

    return splits.write_parts(pathlib.Path(output), parts, "npz", write_part)
