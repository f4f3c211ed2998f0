"""Random access to TFRecord files without TensorFlow.

A record consists of the length of its data (uint64, little-endian), the masked CRC-32C of the
length, the data, and the masked CRC-32C of the data. Source: TensorFlow,
tensorflow/core/lib/io/record_writer.h.
"""

import dataclasses
import itertools
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from cssl_jax.data.formats.shards import Shard, ShardReader
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json
from cssl_jax.interop.tf_files.crc32c import masked_crc32c

_HEADER = struct.Struct("<QI")
_FOOTER = 4  # bytes of the checksum after the data


@dataclasses.dataclass(frozen=True)
class TFRecordIndex:
    """Positions of all records in several files.

    Attributes:
        reader: Reader of the files.
        starts: int64 [records] per file, byte offset of the data of every record.
        sizes: int64 [records] per file, size of the data of every record in bytes.
    """

    reader: ShardReader
    starts: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]

    def read(self, shard: int, position: int) -> bytes:
        """Reads the data of a record, without verifying its checksum.

        Args:
            shard: Index of the file.
            position: Index of the record in the file.

        Raises:
            OSError: The record cannot be read, or the file has changed.
        """
        start, size = self.starts[shard][position], self.sizes[shard][position]
        return self.reader.read(shard, int(start), int(size))


def open_tfrecords(shards: Sequence[Shard]) -> TFRecordIndex:
    """Finds the position of every record by its length field. The result is cached per file.

    Raises:
        UserError: A file is cut short or damaged.
    """
    starts, sizes = [], []
    for lengths in map_ahead(_cached_lengths, shards):
        size = np.array(lengths, np.int64)
        ends = np.cumsum(size + _HEADER.size + _FOOTER)
        starts.append(ends - size - _FOOTER)
        sizes.append(size)
    return TFRecordIndex(ShardReader(shards), tuple(starts), tuple(sizes))


def record_lengths(path: pathlib.Path) -> list[int]:
    """Reads the lengths of all records of a file, in bytes.

    Raises:
        UserError: The file is cut short, or a length does not match its checksum.
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
                "match its checksum; copy the file again or prepare the set again"
            )
        offset += _HEADER.size + length + _FOOTER
        if offset > end:
            raise UserError(
                f"{path} is cut short within record {record}, at byte {end}; copy the file again "
                "or prepare the set again"
            )
        yield length


def _cached_lengths(shard: Shard) -> list[int]:
    key = f"tfrecord lengths|{shard.path}|{shard.stamp}"
    return cached_json(key, lambda: record_lengths(shard.path))
