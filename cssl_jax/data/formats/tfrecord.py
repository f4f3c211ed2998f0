"""Random access to TFRecord files without TensorFlow.

The framing is a record's length (uint64, little-endian), the masked CRC-32C of the length, the data
and the masked CRC-32C of the data: TensorFlow, tensorflow/core/lib/io/record_writer.h.
"""

import dataclasses
import itertools
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from cssl_jax.data.formats.shards import Shard, ShardReader
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_HEADER = struct.Struct("<QI")
_FOOTER = 4  # bytes


@dataclasses.dataclass(frozen=True)
class TFRecordIndex:
    """Where the records of some files lie.

    Attributes:
        reader: Of the files.
        starts: Of a file, int64 [records], byte of each record's data.
        sizes: Of a file, int64 [records], bytes of it.
    """

    reader: ShardReader
    starts: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]

    def read(self, shard: int, position: int) -> bytes:
        """A record's data; its own checksum is not verified.

        Raises:
            OSError: It cannot be read.
        """
        start, size = self.starts[shard][position], self.sizes[shard][position]
        return self.reader.read(shard, int(start), int(size))


def open_tfrecords(shards: Sequence[Shard]) -> TFRecordIndex:
    """Finds every record, by the framing alone; cached a file.

    Raises:
        UserError: A file is cut short or damaged.
    """
    starts, sizes = [], []
    for lengths in ahead(_cached_lengths, shards):
        size = np.array(lengths, np.int64)
        ends = np.cumsum(size + _HEADER.size + _FOOTER)
        starts.append(ends - size - _FOOTER)
        sizes.append(size)
    return TFRecordIndex(ShardReader(shards), tuple(starts), tuple(sizes))


def record_lengths(path: pathlib.Path) -> list[int]:
    """Bytes of every record of a file.

    Raises:
        UserError: It is cut short, or a length does not match its checksum.
    """
    try:
        with path.open("rb") as file:
            return list(_walk(path, file.fileno()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _walk(path: pathlib.Path, file: int) -> Iterator[int]:
    offset, end = 0, os.fstat(file).st_size
    for record in itertools.count():
        if offset == end:
            return
        header = os.pread(file, _HEADER.size, offset)
        length, check = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
        if len(header) == _HEADER.size and masked_crc32c(header[:8]) != check:
            raise UserError(
                f"{path} is damaged: the length of record {record}, at byte {offset}, does not "
                "match its checksum; copy the file again or prepare the set anew"
            )
        offset += _HEADER.size + length + _FOOTER
        if offset > end:
            raise UserError(
                f"{path} is cut short within record {record}, at byte {end}; copy the file again "
                "or prepare the set anew"
            )
        yield length


def masked_crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and offset as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def _cached_lengths(shard: Shard) -> list[int]:
    key = f"tfrecord lengths|{shard.path}|{shard.stamp}"
    return cached_json(key, lambda: record_lengths(shard.path))
