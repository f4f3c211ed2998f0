"""Parquet files with a column of pictures as records, a row group at a time."""

import collections
import dataclasses
import glob
import json
import pathlib
import threading
from typing import Any

import numpy as np

from cssl_jax.data.folder import number_labels
from cssl_jax.errors import UserError

CACHE = 2**28  # bytes of row groups kept
LARGEST = 2**29  # bytes of one row group: every first look at a picture of it reads it whole


class _RowGroups:
    """Encoded pictures of the row groups read last, for many threads."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._kept: collections.OrderedDict[tuple[str, int], list[bytes]] = (
            collections.OrderedDict()
        )
        self._size = 0
        self._lock = threading.Lock()

    def row(self, path: str, group: int, row: int) -> bytes:
        with self._lock:
            if (path, group) in self._kept:
                self._kept.move_to_end((path, group))
                return self._kept[path, group][row]
        pictures = self._load(path, group)
        with self._lock:
            if (path, group) not in self._kept:
                self._kept[path, group] = pictures
                self._size += sum(map(len, pictures))
            while self._size > CACHE and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= sum(map(len, dropped))
        return pictures[row]

    def _load(self, path: str, group: int) -> list[bytes]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=[self._column])
        return [_content(value) for value in table[self._column].to_pylist()]


def _content(value: Any) -> bytes:
    value = value.get("bytes") if isinstance(value, dict) else value
    return value or b""  # a row without a picture: the scan says "empty"


@dataclasses.dataclass(frozen=True)
class ParquetRecords:
    """Rows of parquet files; ``Records``.

    Attributes:
        name: As it was asked for.
        names: "file:row".
        stamps: Of the file.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        places: (file, row group, row in it).
        groups: The row groups read last.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    places: tuple[tuple[str, int, int], ...]
    groups: _RowGroups

    def read(self, index: int) -> bytes:
        """The encoded picture."""
        return self.groups.row(*self.places[index])


def open_parquet(spec: str, *, image_key: str = "", label_key: str = "") -> ParquetRecords:
    """Opens a .parquet file, a folder of them, or a pattern.

    Pictures are binary, or Hugging Face's struct of bytes and path; labels whole numbers (with the
    names that Hugging Face keeps in the schema) or text.

    Raises:
        UserError: No file, no such column, or row groups too large for random access.
    """
    import pyarrow.parquet

    path = pathlib.Path(spec).expanduser()
    files = sorted(map(str, path.glob("*.parquet") if path.is_dir() else glob.glob(str(path))))
    if not files:
        raise UserError(f"{spec} matches no .parquet file")
    image, label = "", ""
    class_names: tuple[str, ...] = ()
    rows: list[tuple[str, str, str, tuple[str, int, int]]] = []
    for name in files:
        try:
            file = pyarrow.parquet.ParquetFile(name)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{name} is no readable parquet file: {error}") from error
        with file:
            image = _column(file.schema_arrow, image_key, _is_picture, "image", name)
            label = _column(file.schema_arrow, label_key, _is_label, "label", name)
            class_names = _class_names(file.schema_arrow, label)
            _check_groups(file, image, name)
            labels = file.read([label])[label].to_pylist() if label else []
            stat = pathlib.Path(name).stat()
            stamp, short = f"{stat.st_size}-{stat.st_mtime_ns}", pathlib.Path(name).name
            places = [
                (name, group, row)
                for group in range(file.num_row_groups)
                for row in range(file.metadata.row_group(group).num_rows)
            ]
            for i, place in enumerate(places):
                given = "" if not label or labels[i] is None else str(labels[i])
                rows.append((f"{short}:{i:08d}", stamp, given, place))
    if not rows:
        raise UserError(f"{spec} holds no rows")
    names, stamps, values, where = zip(*rows, strict=True)
    numbers, classes = number_labels(values)
    if class_names and numbers is not None:
        classes = class_names
    return ParquetRecords(spec, names, stamps, numbers, classes, where, _RowGroups(image))


def _is_picture(field: Any) -> bool:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(field: Any) -> bool:
    import pyarrow as pa

    return field.name in ("label", "labels", "class") and (
        pa.types.is_integer(field.type) or pa.types.is_string(field.type)
    )


def _column(schema: Any, wanted: str, fits: Any, usual: str, name: str) -> str:
    if wanted:
        if wanted not in schema.names:
            raise UserError(f"{name} has no column {wanted!r}; there are {', '.join(schema.names)}")
        return wanted
    found = [field.name for field in schema if fits(field)]
    if usual in found or len(found) == 1:
        return usual if usual in found else found[0]
    if usual == "image":
        raise UserError(
            f"{name} has {'no' if not found else 'several'} columns of pictures among "
            f"{', '.join(schema.names)}; choose one by --data.image-key"
        )
    return found[0] if found else ""


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    try:
        content = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(content["info"]["features"][label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _check_groups(file: Any, image: str, name: str) -> None:
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        columns = (facts.column(i) for i in range(facts.num_columns))
        size = sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema.split(".")[0] == image
        )
        if size > LARGEST:
            raise UserError(
                f"{name} has a row group of {size / 2**20:.0f} MiB of pictures, too large to read "
                "for one of them; write it with smaller ones: pyarrow.parquet.write_table("
                f"pyarrow.parquet.read_table({name!r}), 'small.parquet', row_group_size=100)"
            )
