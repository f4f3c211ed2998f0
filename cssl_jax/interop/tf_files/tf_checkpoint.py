"""Reads TensorFlow's checkpoints without TensorFlow: an index, and shards of raw values.

The index is a sorted table of blocks (the format of LevelDB's tables), whose values are protocol
buffers: a header, and one entry per array. Every size is checked before memory is allocated.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop.tf_files.crc32c import masked_crc32c
from cssl_jax.interop.tf_files.snappy import decompress

# tensorflow/core/framework/types.proto. Arrays of other types, such as texts, are omitted.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_MAGIC = 0xDB4775248B80FB57  # tensorflow/core/lib/io/table_options.h
_FOOTER, _TRAILER = 48, 5  # bytes of the table's end, and behind each block
_MAX_INDEX = 2**24  # bytes of an index; that of a ResNet-152 with its optimizer has 100,000
_MAX_ENTRIES, _MAX_KEY = 100_000, 1000
_MAX_SHARDS = 10_000
_MAX_AXES = 32
_MAX_VALUES = 2**47

Message = dict[int, list[Any]]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Place of an array: dtype, shape, number of the shard, first byte, checksum."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shard: int
    offset: int
    crc: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint(Mapping[str, np.ndarray]):
    """Arrays of a checkpoint by name; each is read, and its checksum compared, when it is taken."""

    def __init__(self, path: pathlib.Path, entries: dict[str, _Entry], shards: int) -> None:
        self._path, self._entries, self._shards = path, entries, shards

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        path = _shard(self._path, entry.shard, self._shards)
        array = np.empty(entry.shape, entry.dtype)
        content = array.reshape(-1).view(np.uint8)
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                count = file.readinto(content.data)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if count != entry.size or masked_crc32c(content) != entry.crc:
            raise UserError(f"{path} is damaged: the checksum of {cut(name)} is another")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all arrays by name, without reading the arrays."""
        return {name: entry.shape for name, entry in self._entries.items()}


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint by its index.

    Args:
        path: File ``PREFIX.index``; the values are in ``PREFIX.data-00000-of-00001`` and others.

    Raises:
        UserError: A file cannot be read, is damaged, or lacks; or the values are big-endian.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError(f"it is larger than {_MAX_INDEX:,} bytes")
        table = dict(_table(path.read_bytes()))
        header = _message(table.pop(b""))
        shards = _number(header, 1)
        if not 0 < shards <= _MAX_SHARDS:
            raise ValueError(f"{shards} files of values cannot be right")
        if _number(header, 2):
            raise UserError(f"{path} has big-endian values, which are not supported")
        entries = {
            key.decode(): entry
            for key, value in table.items()
            if (entry := _entry(_message(value))) is not None
        }
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError) as error:
        detail = cut(str(error) or type(error).__name__)
        raise UserError(
            f"{path} is damaged or no index of a TensorFlow checkpoint: {detail}"
        ) from (error)
    _check_places(path, entries, shards)
    return Checkpoint(path, entries, shards)


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """The index and all files of values that lie beside it, in order."""
    prefix = path.name.removesuffix(".index")
    return [path, *sorted(path.parent.glob(f"{_escaped(prefix)}.data-?????-of-?????"))]


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _shard(path: pathlib.Path, number: int, shards: int) -> pathlib.Path:
    prefix = path.name.removesuffix(".index")
    return path.with_name(f"{prefix}.data-{number:05d}-of-{shards:05d}")


def _check_places(path: pathlib.Path, entries: dict[str, _Entry], shards: int) -> None:
    """Raises UserError if an array lies outside of its file."""
    sizes: dict[int, int] = {}
    for name, entry in entries.items():
        place = _shard(path, entry.shard, shards)
        if entry.shard not in sizes:
            try:
                sizes[entry.shard] = place.stat().st_size
            except OSError as error:
                raise UserError(
                    f"cannot read {place}: {error.strerror or error}; a checkpoint is the index "
                    "and its files of values together"
                ) from error
        if entry.offset + entry.size > sizes[entry.shard]:
            raise UserError(f"{place} is truncated: {cut(name)} ends after the end of the file")


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a table."""
    if len(content) < _FOOTER or int.from_bytes(content[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as an index does")
    footer = content[-_FOOTER:-8]
    _, _, position = _handle(footer, 0)  # of the metaindex, which TensorFlow leaves empty
    start, size, _ = _handle(footer, position)
    last = count = 0
    for _, value in _block(content, start, size):
        start, size, _ = _handle(value, 0)
        if start < last:  # a hostile index may refer to one block many times
            raise ValueError("its blocks overlap")
        last = start + size
        for pair in _block(content, start, size):
            count += 1
            if count > _MAX_ENTRIES:
                raise ValueError(f"it has more than {_MAX_ENTRIES:,} names")
            yield pair


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block, in which a key shares its beginning with the one before it."""
    end = start + size
    if end + _TRAILER > len(content):
        raise ValueError("a block ends after the end of the file")
    stored = int.from_bytes(content[end + 1 : end + _TRAILER], "little")
    if masked_crc32c(content[start : end + 1]) != stored:
        raise ValueError("the checksum of a block is another")
    if content[end] > 1:
        raise ValueError("a block is compressed in an unknown way")
    block = decompress(content[start:end]) if content[end] else content[start:end]
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 - 4 * restarts
    position, key = 0, b""
    while position < limit:
        shared, position = _varint(block, position)
        rest, position = _varint(block, position)
        length, position = _varint(block, position)
        fits = shared <= len(key) and shared + rest <= _MAX_KEY
        if not fits or position + rest + length > limit:
            raise ValueError("an entry of a block is damaged")
        key = key[:shared] + block[position : position + rest]
        position += rest + length
        yield key, block[position - length : position]


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    """(start of a block, its size, position after both numbers)."""
    start, position = _varint(content, position)
    size, position = _varint(content, position)
    return start, size, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """(number, position after it)."""
    value = 0
    for i in range(10):
        byte = content[position + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, position + i + 1
    raise ValueError("a number is too long")


def _message(content: Any) -> Message:
    """Fields of a protocol buffer: number -> values, which are integers or bytes."""
    if not isinstance(content, bytes):
        raise ValueError("a field of an entry has another type")
    fields: Message = {}
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        value: Any
        if tag & 7 == 0:
            value, position = _varint(content, position)
        else:
            if tag & 7 == 2:
                size, position = _varint(content, position)
            else:
                size = {1: 8, 5: 4}[tag & 7]
            value = content[position : position + size]
            position += size
            if position > len(content):
                raise ValueError("an entry is truncated")
            value = value if tag & 7 == 2 else int.from_bytes(value, "little")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(message: Message, field: int) -> int:
    value = message.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError("a field of an entry has another type")
    return value


def _entry(message: Message) -> _Entry | None:
    """Place of an array; None for an array of a type that is omitted."""
    dtype = _DTYPES.get(_number(message, 1))
    if dtype is None:
        return None
    if 7 in message:
        raise ValueError("an array is stored in slices, which are not supported")
    dims = [_message(dim) for shape in message.get(2, []) for dim in _message(shape).get(2, [])]
    shape = tuple(_number(dim, 1) for dim in dims)
    if len(shape) > _MAX_AXES or math.prod(max(side, 1) for side in shape) > _MAX_VALUES:
        raise ValueError(f"shape {shape} cannot be right")
    entry = _Entry(dtype, shape, *(_number(message, field) for field in (3, 4, 6)))
    if entry.size != _number(message, 5):
        raise ValueError(f"shape {shape} does not fit {_number(message, 5)} bytes")
    return entry
