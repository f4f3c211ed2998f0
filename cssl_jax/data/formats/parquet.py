"""Parquet files with a column of pictures, such as Hugging Face's image sets."""

import collections
import dataclasses
import json
import pathlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from cssl_jax.data.formats.schema import choose_field, note_on_no_label, number_labels
from cssl_jax.data.formats.shards import Shard, find_shards
from cssl_jax.errors import UserError

CACHE_BYTES = 2**28  # of row groups that are held
MAX_GROUP_BYTES = 2**29  # of one row group, which is read whole for any of its rows


@dataclasses.dataclass(frozen=True)
class ParquetRecords:
    """Pictures in parquet files; ``Records`` of them.

    Attributes:
        name: The file, folder or pattern.
        names: "shard:row".
        stamps: Of the shard, the row and the column.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        column: The pictures.
        notes: Sentences on what was read and what was not.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    column: "BinaryColumn"
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """The picture's bytes.

        Raises:
            OSError: They cannot be read, or the row has none.
        """
        return self.column.read(index)


def open_parquet(path: str, *, image_key: str = "", label_key: str = "") -> ParquetRecords:
    """Opens parquet files; reads their footers and the labels.

    Args:
        path: A .parquet file, a folder of them, or a pattern.
        image_key: Column of the pictures: bytes, or Hugging Face's {bytes, path}. "" takes the only
            one, or that named "image".
        label_key: Column of whole numbers or names. "" takes Hugging Face's only ClassLabel, or
            "label".

    Raises:
        UserError: There are no such files or columns, or a row group is too large.
    """
    shards = find_shards(path, ".parquet")
    metadata = [read_metadata(shard.path) for shard in shards]
    schema = _arrow_schema(shards[0].path, metadata[0])
    features = _features(schema)
    image = choose_field("image", image_key, _image_columns(schema, features), schema.names, path)
    if image is None or not _is_picture(schema.field(image).type):
        raise UserError(
            f"{path} has no column of pictures{f' {image!r}' if image else ''}; choose one that "
            f"holds encoded bytes, by --data.image-key, from {', '.join(schema.names)}"
        )
    labelled = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if "label" in schema.names and _is_label(schema.field("label").type):
        labelled.append("label")
    label = choose_field("label", label_key, labelled, schema.names, path)
    leaf = image if _is_bytes(schema.field(image).type) else f"{image}.bytes"
    column = BinaryColumn(shards, metadata, leaf)
    if not len(column):
        raise UserError(f"{path} has no rows")
    labels, classes = _labels(shards, metadata, label, path) if label else (None, ())
    counts = [file.num_rows for file in metadata]
    rows = [
        (shard, row) for shard, count in zip(shards, counts, strict=True) for row in range(count)
    ]
    return ParquetRecords(
        name=str(pathlib.Path(path).expanduser().absolute()),
        names=tuple(f"{shard.name}:{row}" for shard, row in rows),
        stamps=tuple(f"{shard.stamp}-{row}-{leaf}" for shard, row in rows),
        labels=labels,
        classes=classes,
        column=column,
        notes=()
        if label
        else note_on_no_label(
            "columns",
            [name for name in schema.names if name != image],
            "name it by --data.label-key",
        ),
    )


def _labels(
    shards: Sequence[Shard], metadata: Sequence[Any], column: str, path: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and names of their classes, which all files must agree on."""
    values: list[Any] = []
    names = []
    for shard, file in zip(shards, metadata, strict=True):
        values += _values(shard.path, column)
        names.append(_class_names(_features(_arrow_schema(shard.path, file)).get(column, {})))
        if names[-1] != names[0]:
            raise UserError(
                f"{shard.path} numbers the classes of column {column} in another way than "
                f"{shards[0].path}; give the one or the other"
            )
    return number_labels(values, f"{path}, column {column}", names[0])


class BinaryColumn:
    """A column of bytes over several files, by row, from many threads at once.

    Parquet is read by row group: ``cache_bytes`` of those read last are held, and one that several
    threads want is read by one of them.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        metadata: Sequence[Any],
        leaf: str,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Checks the row groups.

        Args:
            shards: The files.
            metadata: ``pyarrow.parquet.FileMetaData`` of each.
            leaf: Path of the column, such as "image.bytes".
            cache_bytes: To hold.

        Raises:
            UserError: A file has no such column, or a row group is too large.
        """
        self._shards, self._metadata, self._leaf = shards, metadata, leaf
        self._cache_bytes = cache_bytes
        self._groups: list[tuple[int, int]] = []  # file, row group
        rows = []
        for number, (shard, file) in enumerate(zip(shards, metadata, strict=True)):
            for group, count in enumerate(_group_rows(shard.path, file, leaf)):
                self._groups.append((number, group))
                rows.append(count)
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._lock = threading.Lock()
        self._loading: dict[int, Future[Any]] = {}
        self._held: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, row: int) -> bytes:
        """The bytes of a row.

        Raises:
            OSError: They cannot be read, or there are none.
        """
        group = int(np.searchsorted(self._ends, row, side="right"))
        values = self._group(group)
        value = values[row - int(self._ends[group]) + len(values)].as_py()
        if value is None:
            shard = self._shards[self._groups[group][0]]
            raise OSError(f"{shard.path} has no bytes in column {self._leaf}, at most a path")
        return value

    def _group(self, group: int) -> Any:
        """A row group's column, from what is held or by reading it."""
        with self._lock:
            if group in self._held:
                self._held.move_to_end(group)
                return self._held[group]
            others = self._loading.get(group)
            if others is None:
                own = self._loading[group] = Future()
        if others is not None:
            return others.result()
        try:
            own.set_result(self._load(group))
        except BaseException as error:
            own.set_exception(error)
        with self._lock:
            del self._loading[group]
            if own.exception() is None:
                self._hold(group, own.result())
        return own.result()

    def _hold(self, group: int, values: Any) -> None:
        self._held[group] = values
        self._held_bytes += values.nbytes
        while self._held_bytes > self._cache_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._held_bytes -= oldest.nbytes

    def _load(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        shard, number = self._groups[group]
        self._shards[shard].check(self._shards[shard].path.stat())
        try:
            # A file a reading: pyarrow's readers are not made to be shared by threads.
            with pq.ParquetFile(self._shards[shard].path, metadata=self._metadata[shard]) as file:
                table = file.read_row_group(number, columns=[self._leaf], use_threads=False)
            values = table.column(0)
            for field in self._leaf.split(".")[1:]:
                values = pc.struct_field(values, field)
            wanted = self._metadata[shard].row_group(number).num_rows
            if len(values) != wanted:
                raise OSError(f"{len(values)} rows, the footer says {wanted}")
            return values
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            path = self._shards[shard].path
            raise OSError(f"{path}: row group {number}: {_words(error)}") from error


def read_metadata(path: pathlib.Path) -> Any:
    """``pyarrow.parquet.FileMetaData`` of a file.

    Raises:
        UserError: It is no parquet file, or cut short.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as parquet: {_words(error)}; copy it again"
        ) from error


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns; empty where there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_names(feature: dict[str, Any]) -> list[str] | None:
    """Of a ClassLabel; None where they are missing or are no names."""
    names = feature.get("names")
    right = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if right else None


def _arrow_schema(path: pathlib.Path, metadata: Any) -> Any:
    import pyarrow as pa

    try:
        return metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path} has a damaged schema: {_words(error)}; copy it again") from error


def _image_columns(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    known = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    return known or [field.name for field in schema if _is_picture(field.type)]


def _is_picture(kind: Any) -> bool:
    """Bytes, or Hugging Face's {bytes, path}."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_bytes(kind.field(index).type)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    words = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return words or pa.types.is_integer(kind) or pa.types.is_dictionary(kind)


def _group_rows(path: pathlib.Path, metadata: Any, leaf: str) -> list[int]:
    """Rows of every row group, none of which holds too many bytes."""
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if leaf not in leaves:
        raise UserError(f"{path} has no column {leaf}; its columns are {', '.join(leaves)}")
    if metadata.num_row_groups > path.stat().st_size:
        raise UserError(f"{path} is damaged: more row groups than bytes; copy it again")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    counts = [group.num_rows for group in groups]
    # A row takes a bit at least, and a damaged count would fill the memory with names of rows.
    if min(counts, default=0) < 0 or sum(counts) > 8 * path.stat().st_size:
        raise UserError(f"{path} is damaged: it claims {sum(counts):,} rows; copy it again")
    if sum(counts) != metadata.num_rows:
        raise UserError(
            f"{path} is damaged: {metadata.num_rows:,} rows, {sum(counts):,} in its row groups; "
            "copy it again"
        )
    largest = max(
        (group.column(leaves.index(leaf)).total_uncompressed_size for group in groups), default=0
    )
    if largest > MAX_GROUP_BYTES:
        raise UserError(
            f"{path} has a row group of {largest / 2**20:.0f} MiB, all of which would be read for "
            'any one picture; write it anew with smaller ones: python -c "import pyarrow.parquet '
            f"as p; f = p.ParquetFile('{path}'); w = p.ParquetWriter('{path}.new', f.schema_arrow);"
            f' [w.write_batch(b) for b in f.iter_batches(100)]; w.close()" && mv {path}.new {path}'
        )
    return counts


def _values(path: pathlib.Path, column: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=[column]).column(0).to_pylist()
    except (pa.ArrowException, OSError, IndexError) as error:
        raise UserError(f"{path}: column {column} cannot be read: {_words(error)}") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
