"""Series in a long table, .csv or .parquet: one row per series and step."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cssl_jax.data.formats.schema import is_whole_number, number_labels
from cssl_jax.errors import UserError, short

ID, TIME, LABEL, GROUP = "id", "time", "label", "group"
LAYOUT = (
    "one row per series and step with the columns id, time (optional: the order of steps), one "
    "column of numbers per channel, and optionally label and group"
)
# Texts that stand for a missing number; in columns of text they are text.
_MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"]


class LongTable(NamedTuple):
    """Content of a long table.

    Attributes:
        names: Identifier of every series, str [N], in the order of their first rows.
        series: Values of every series, a float64 array [T_i, C] each; NaN is a missing value.
        channels: Names of the C channels.
        labels: Class numbers int64 [N], -1 for no label; None without labels.
        classes: Class names in the order of the class numbers.
        groups: Group of every series, str [N]; None without a column group.
    """

    names: np.ndarray
    series: list[np.ndarray]
    channels: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    groups: np.ndarray | None


def read_long_table(path: pathlib.Path) -> LongTable:
    """Reads a long table.

    The rows of a series are sorted by ``time``: numbers, dates or text. The distances between times
    are not used. Without that column they keep their order.

    Args:
        path: A .csv file with a header and the separator "," or ";" or a tab, or a .parquet file.

    Raises:
        UserError: The file cannot be read, lacks a column, has a channel that is no number, a row
            without an id or time, two rows of one series and time, or a series with several labels
            or groups.
    """
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    columns = [name.strip() for name in table.column_names]
    table = table.rename_columns(columns)
    channels = tuple(name for name in columns if name not in (ID, TIME, LABEL, GROUP))
    if len(set(columns)) < len(columns) or ID not in columns or not channels:
        listed = ", ".join(map(short, columns[:8]))
        raise UserError(f"{path} has the columns {listed}; give {LAYOUT}")
    if not table.num_rows:
        raise UserError(f"{path} has no row below the header; give {LAYOUT}")
    ids = _text(table, ID, path)
    if (empty := np.flatnonzero(ids == "")).size:
        raise UserError(f"{path}: row {empty[0] + 1} has no id; every row needs that of its series")
    values = np.stack([_numbers(table, name, path) for name in channels], axis=1)
    found, first, numbers = np.unique(ids, return_index=True, return_inverse=True)
    in_file = np.argsort(first)  # series in the order of their first rows
    rank = np.empty_like(in_file)
    rank[in_file] = np.arange(len(in_file))
    owner = rank[numbers]
    order = _order(table, owner, found[in_file], path) if TIME in columns else None
    order = np.argsort(owner, kind="stable") if order is None else order
    ends = np.cumsum(np.bincount(owner))[:-1]

    def per_series(name: str) -> list[str]:
        column = np.split(_text(table, name, path)[order], ends)
        return [_only(part, name, names[i], path) for i, part in enumerate(column)]

    names = found[in_file]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    if LABEL in columns:
        labels, classes = number_labels(_typed(per_series(LABEL)), str(path))
    groups = np.array(per_series(GROUP)) if GROUP in columns else None
    if groups is not None and (groups == "").any():
        raise UserError(
            f"{path}: series {short(str(names[groups == ''][0]))} has no group; give every series "
            "one, or remove the column"
        )
    return LongTable(
        names=names,
        series=np.split(values[order], ends),
        channels=channels,
        labels=labels,
        classes=classes,
        groups=groups,
    )


def is_long_table(path: pathlib.Path) -> bool:
    """True if a .csv or .parquet file has a column id, and none of images.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no table.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        columns = pq.read_schema(str(path)).names
    else:
        header = _header(path)
        columns = [name.strip().strip('"') for name in header.split(_separator(header))]
    return ID in columns and not {"path", "image"} & set(columns)


def _header(path: pathlib.Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        return file.readline().rstrip("\r\n")


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _order(table: Any, owner: np.ndarray, names: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Rows sorted by series and time."""
    column = table.column(TIME)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError(
            f"{path}: row {row + 1} has no time; give every row one, or omit the column"
        )
    times = _plain(column)
    order = np.lexsort((np.unique(times, return_inverse=True)[1], owner))
    again = (np.diff(owner[order]) == 0) & (times[order][1:] == times[order][:-1])
    if again.any():
        row = order[1:][again][0]
        raise UserError(
            f"{path}: series {short(str(names[owner[row]]))} has two rows of time "
            f"{short(str(times[row]))}; give one row per series and time"
        )
    return order


def _only(values: np.ndarray, column: str, name: str, path: pathlib.Path) -> str:
    """The one value that the rows of a series have, besides empty ones; "" if all are empty."""
    given = sorted(set(values.tolist()) - {""})
    if len(given) > 1:
        raise UserError(
            f"{path}: series {short(str(name))} has the {column}s {short(given[0])} and "
            f"{short(given[1])}; give one {column} per series"
        )
    return given[0] if given else ""


def _typed(labels: Sequence[str]) -> list[object]:
    """Labels as whole numbers if all of them are whole numbers."""
    if all(is_whole_number(label) for label in labels if label):
        return [int(label) if label else None for label in labels]
    return list(labels)


def _text(table: Any, name: str, path: pathlib.Path) -> np.ndarray:
    """A column as str [rows]; a missing value is ""."""
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_floating(column.type):
        raise UserError(f"{path}: column {name!r} has fractions; give text or whole numbers")
    return np.array(["" if x is None else str(x).strip() for x in column.to_pylist()], str)


def _numbers(table: Any, name: str, path: pathlib.Path) -> np.ndarray:
    """A channel as float64 [rows]; a missing value is NaN."""
    import pyarrow as pa

    column = table.column(name)
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        example = next((str(x) for x in column.to_pylist() if x is not None), "")
        raise UserError(
            f"{path}: column {name!r} is no channel of numbers: it holds {short(example)}; remove "
            "the column, or write its values as numbers"
        )
    cast = column.cast(pa.float64(), safe=False)
    return np.asarray(cast.fill_null(np.nan).to_numpy(), np.float64)


def _plain(column: Any) -> np.ndarray:
    """A column without missing values as an array that sorts."""
    values: np.ndarray = column.to_numpy()
    return values.astype(str) if values.dtype == object else values


def _parquet(path: pathlib.Path) -> Any:
    import pyarrow.parquet as pq

    return _read(path, "parquet", lambda: pq.read_table(str(path)))


def _csv(path: pathlib.Path) -> Any:
    from pyarrow import csv, string

    def read() -> Any:
        return csv.read_csv(
            str(path),
            parse_options=csv.ParseOptions(delimiter=_separator(_header(path))),
            convert_options=csv.ConvertOptions(
                # As text: "007" and "7" are two series.
                column_types={name: string() for name in (ID, LABEL, GROUP)},
                null_values=_MISSING,
                strings_can_be_null=False,
            ),
        )

    return _read(path, "CSV", read)


def _read(path: pathlib.Path, kind: str, read: Callable[[], Any]) -> Any:
    """A pyarrow table, or UserError."""
    import pyarrow as pa

    try:
        return read()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = short(str(error).partition("\n")[0])
        raise UserError(
            f"{path} cannot be read as a {kind} table: {reason}; give {LAYOUT}"
        ) from error
