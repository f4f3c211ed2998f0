"""Random access to TFRecord files by an index of offsets; without TensorFlow."""

import os
import pathlib
import struct

from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_HEAD, _TAIL = 12, 4  # length (8) and its checksum (4) before a record, a checksum after it


def offsets(path: pathlib.Path) -> list[list[int]]:
    """[offset, length] of every record's payload in a file; found once, then cached.

    Framing as in TensorFlow's ``io/record_writer.h``: uint64 length, uint32 masked CRC-32C of the
    length, payload, uint32 masked CRC-32C of the payload.

    Raises:
        UserError: The file is cut short or no TFRecord file.
    """
    stat = path.stat()
    return cached_json(
        f"tfrecord|{path}|{stat.st_size}|{stat.st_mtime_ns}", lambda: _offsets(path, stat.st_size)
    )


def _offsets(path: pathlib.Path, size: int) -> list[list[int]]:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    found, position = [], 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(_HEAD)
            if len(head) == _HEAD:
                length, check = struct.unpack("<QI", head)
                if masked_crc32c(head[:8]) != check:
                    raise UserError(
                        f"{path} is no TFRecord file, or damaged at byte {position}; prepare it "
                        "again"
                    )
            if len(head) < _HEAD or position + _HEAD + length + _TAIL > size:
                raise UserError(f"{path} is cut short at byte {size}; prepare or copy it again")
            found.append([position + _HEAD, length])
            position += _HEAD + length + _TAIL
    return found


def read(path: pathlib.Path, offset: int, length: int) -> bytes:
    """One payload."""
    file = os.open(path, os.O_RDONLY)
    try:
        content = os.pread(file, length, offset)
    finally:
        os.close(file)
    if len(content) != length:
        raise OSError(f"{path} is cut short")
    return content
