"""Parquet files with a column of encoded images, such as the image sets of Hugging Face."""

import collections
import dataclasses
import json
import pathlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.registry import FormatEntry
from cssl_jax.data.formats.schema import choose_field, note_on_no_label, number_labels
from cssl_jax.data.formats.shards import (
    Shard,
    count_shards,
    find_shards,
    holds_shards,
    note_on_images,
)
from cssl_jax.errors import UserError

CACHE_BYTES = 2**28  # maximum bytes of cached row groups
MAX_GROUP_BYTES = 2**29  # maximum bytes of a row group; reading one row reads its whole group


@dataclasses.dataclass(frozen=True)
class ParquetRecords:
    """Images in parquet files, as ``Records``.

    Attributes:
        name: Absolute path of the file or folder, or the pattern.
        names: "shard:row" of every image.
        stamps: Stamp of the shard, row and column, for every image.
        labels: int64 [size], class number of every image, -1 for no label; None if no image has a
            label.
        classes: Class names in the order of the class numbers.
        column: Column of the encoded images.
        notes: Sentences for the user about columns that are not read.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    column: "BinaryColumn"
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """Reads the bytes of one encoded image.

        Raises:
            OSError: The file cannot be read or has changed, or the row has no bytes.
        """
        return self.column.read(index)


def open_parquet(path: str, *, image_key: str = "", label_key: str = "") -> ParquetRecords:
    """Opens parquet files. This reads their footers and the labels, but no images.

    Args:
        path: A .parquet file, a folder of them, or a pattern.
        image_key: Column of the images: bytes, or the struct {bytes, path} of Hugging Face. "": the
            only such column, or the one named "image".
        label_key: Column of the labels: whole numbers or names. "": the only ClassLabel column of
            Hugging Face, or the column "label".

    Raises:
        UserError: There are no such files or columns, or a row group is too large.
    """
    shards = find_shards(path, ".parquet")
    metadata = [read_metadata(shard.path) for shard in shards]
    schema = _arrow_schema(shards[0].path, metadata[0])
    features = _features(schema)
    image = choose_field("image", image_key, _image_columns(schema, features), schema.names, path)
    if image is None or not _is_image_type(schema.field(image).type):
        raise UserError(
            f"{path} has no column of images{f' {image!r}' if image else ''}; choose a column of "
            f"encoded bytes by --data.image-key from {', '.join(schema.names)}"
        )
    label_columns = [
        name for name, feature in features.items() if feature.get("_type") == "ClassLabel"
    ]
    if "label" in schema.names and _is_label_type(schema.field("label").type):
        label_columns.append("label")
    label = choose_field("label", label_key, label_columns, schema.names, path)
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
            "give its name by --data.label-key",
        ),
    )


def _labels(
    shards: Sequence[Shard], metadata: Sequence[Any], column: str, path: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Reads the labels and class names of all files.

    Raises:
        UserError: Two files have different class names, or the labels cannot be read.
    """
    values: list[Any] = []
    names = []
    for shard, file in zip(shards, metadata, strict=True):
        values += _read_values(shard.path, column)
        names.append(_class_names(_features(_arrow_schema(shard.path, file)).get(column, {})))
        if names[-1] != names[0]:
            raise UserError(
                f"{shard.path} numbers the classes of column {column} differently from "
                f"{shards[0].path}; give only one of the two files"
            )
    return number_labels(values, f"{path}, column {column}", names[0])


class BinaryColumn:
    """Column of bytes in several files, read by row from many threads at once.

    Parquet can only be read by row group. The most recently used groups are cached, and a group
    that several threads need at once is read by one of them.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        metadata: Sequence[Any],
        leaf: str,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Checks the footers of all files; reads no rows.

        Args:
            shards: Parquet files.
            metadata: ``pyarrow.parquet.FileMetaData`` of every file.
            leaf: Path of the column in the schema, such as "image.bytes".
            cache_bytes: Maximum bytes of cached row groups. The last group read is always cached.

        Raises:
            UserError: A file has no such column or is damaged, or a row group is too large.
        """
        self._shards, self._metadata, self._leaf = shards, metadata, leaf
        self._cache_bytes = cache_bytes
        self._groups: list[tuple[int, int]] = []  # (index of the file, row group in the file)
        counts = []
        for number, (shard, file) in enumerate(zip(shards, metadata, strict=True)):
            for group, count in enumerate(_group_rows(shard.path, file, leaf)):
                self._groups.append((number, group))
                counts.append(count)
        # Row number, over all files, at which every group ends.
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._lock = threading.Lock()
        self._loading: dict[int, Future[Any]] = {}
        self._cached: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, row: int) -> bytes:
        """Reads the bytes of a row, counted over all files.

        Raises:
            OSError: The file cannot be read or has changed, or the row has no bytes.
        """
        group = int(np.searchsorted(self._ends, row, side="right"))
        values = self._group(group)
        value: bytes | None = values[row - int(self._ends[group]) + len(values)].as_py()
        if value is None:
            shard = self._shards[self._groups[group][0]]
            raise OSError(
                f"{shard.path} has a row with no bytes in column {self._leaf}; paths are not read"
            )
        return value

    def _group(self, group: int) -> Any:
        """Column of a row group, from the cache or from the file."""
        with self._lock:
            if group in self._cached:
                self._cached.move_to_end(group)
                return self._cached[group]
            pending = self._loading.get(group)
            if pending is None:
                future = self._loading[group] = Future()
        if pending is not None:
            return pending.result()
        try:
            future.set_result(self._load(group))
        # Any exception must reach the waiting threads, else they wait forever.
        except BaseException as error:
            future.set_exception(error)
        with self._lock:
            del self._loading[group]
            if future.exception() is None:
                self._cache(group, future.result())
        return future.result()

    def _cache(self, group: int, values: Any) -> None:
        self._cached[group] = values
        self._cached_bytes += values.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cached) > 1:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.nbytes

    def _load(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        shard, number = self._groups[group]
        self._shards[shard].check(self._shards[shard].path.stat())
        try:
            # The file is opened per read, because threads cannot share a reader of pyarrow.
            with pq.ParquetFile(self._shards[shard].path, metadata=self._metadata[shard]) as file:
                table = file.read_row_group(number, columns=[self._leaf], use_threads=False)
            values = table.column(0)
            for field in self._leaf.split(".")[1:]:
                values = pc.struct_field(values, field)
            expected = self._metadata[shard].row_group(number).num_rows
            if len(values) != expected:
                raise OSError(f"{len(values)} rows, but the footer says {expected}")
            return values
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            path = self._shards[shard].path
            raise OSError(f"{path}: row group {number}: {_one_line(error)}") from error


def read_metadata(path: pathlib.Path) -> Any:
    """Reads the footer of a parquet file, a ``pyarrow.parquet.FileMetaData``.

    Raises:
        UserError: The file is not a parquet file, or is cut short.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as parquet: {_one_line(error)}; copy it again"
        ) from error


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Description of the columns by Hugging Face; {} if it is missing or damaged."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_names(feature: dict[str, Any]) -> list[str] | None:
    """Class names of a ClassLabel; None if they are missing or not text."""
    names = feature.get("names")
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if valid else None


def _arrow_schema(path: pathlib.Path, metadata: Any) -> Any:
    import pyarrow as pa

    try:
        return metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(
            f"{path} has a damaged schema: {_one_line(error)}; copy it again"
        ) from error


def _image_columns(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    declared = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    return declared or [field.name for field in schema if _is_image_type(field.type)]


def _is_image_type(kind: Any) -> bool:
    """True for bytes, and for the struct {bytes, path} of Hugging Face."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_bytes(kind.field(index).type)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def _is_label_type(kind: Any) -> bool:
    import pyarrow as pa

    text_checks = (pa.types.is_string, pa.types.is_large_string)
    checks = (*text_checks, pa.types.is_integer, pa.types.is_dictionary)
    return any(check(kind) for check in checks)


def _group_rows(path: pathlib.Path, metadata: Any, leaf: str) -> list[int]:
    """Number of rows of every row group.

    Raises:
        UserError: The file has no such column, its footer is damaged, or a group is too large.
    """
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if leaf not in leaves:
        raise UserError(f"{path} has no column {leaf}; its columns are {', '.join(leaves)}")
    if metadata.num_row_groups > path.stat().st_size:
        raise UserError(f"{path} is damaged: more row groups than bytes; copy it again")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    counts = [group.num_rows for group in groups]
    # Every row takes at least one bit. A larger count is damaged, and the names of so many rows
    # would fill the memory.
    if min(counts, default=0) < 0 or sum(counts) > 8 * path.stat().st_size:
        raise UserError(f"{path} is damaged: it claims {sum(counts):,} rows; copy it again")
    if sum(counts) != metadata.num_rows:
        raise UserError(
            f"{path} is damaged: the footer says {metadata.num_rows:,} rows, its row groups "
            f"{sum(counts):,}; copy it again"
        )
    largest = max(
        (group.column(leaves.index(leaf)).total_uncompressed_size for group in groups), default=0
    )
    if largest > MAX_GROUP_BYTES:
        raise UserError(
            f"{path} has a row group of {largest / 2**20:.0f} MiB, which is read whole for every "
            'single image; rewrite it with smaller ones: python -c "import pyarrow.parquet '
            f"as p; f = p.ParquetFile('{path}'); w = p.ParquetWriter('{path}.new', f.schema_arrow);"
            f' [w.write_batch(b) for b in f.iter_batches(100)]; w.close()" && mv {path}.new {path}'
        )
    return counts


def _read_values(path: pathlib.Path, column: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            values: list[Any] = file.read(columns=[column]).column(0).to_pylist()
            return values
    except (pa.ArrowException, OSError, IndexError) as error:
        raise UserError(f"{path}: column {column} cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _open(path: str, options: ImageOptions) -> ParquetRecords:
    return open_parquet(path, image_key=options.image_key, label_key=options.label_key)


def _open_folder(path: str, options: ImageOptions) -> ParquetRecords:
    records = _open(path, options)
    return dataclasses.replace(records, notes=(*records.notes, *note_on_images(path)))


FORMAT = FormatEntry(
    open=_open,
    description="a .parquet file",
    suffixes=(".parquet",),
    # A folder with tar files beside is one of tar files, or of images.
    recognises=lambda folder: not count_shards(folder, ".tar") and holds_shards(folder, ".parquet"),
    open_folder=_open_folder,
)
