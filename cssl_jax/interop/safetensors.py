"""Reads and writes safetensors files: a JSON header, then the raw values of named arrays.

The `safetensors` package gives NumPy users no bfloat16 and no float8 arrays, so the format, which
is a page long, is read here. Every size in the header is checked before memory is allocated.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np

from cssl_jax.errors import UserError, cut, short
from cssl_jax.files import replaced

# https://github.com/huggingface/safetensors, "Format". Values are little-endian.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("<c8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # bytes, the limit of the format's own library
_MAX_AXES = 32


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of a safetensors file.

    Args:
        path: File to read.

    Returns:
        Name -> array in memory of its own, in the order of the header. bfloat16 and float8 arrays
        have the dtypes of ``ml_dtypes``.

    Raises:
        UserError: The file cannot be opened, or is damaged or no safetensors file.
    """
    with _opened(path) as file:
        header = _read_header(file, path)
        arrays = {}
        for name, entry in header.tensors.items():
            array = np.empty(entry.shape, entry.dtype)
            file.seek(header.size + entry.begin)
            # A view as bytes, since bfloat16 arrays offer no buffer of their own.
            content = array.reshape(-1).view(np.uint8)
            if file.readinto(content.data) != content.size:
                raise UserError(f"{path} is truncated: {cut(name)} ends after the end of the file")
            arrays[name] = array
        return arrays


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the free texts of a safetensors file's header; empty if there are none.

    Raises:
        UserError: The file cannot be opened, or is damaged or no safetensors file.
    """
    with _opened(path) as file:
        return _read_header(file, path).metadata


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a safetensors file, which replaces ``path`` atomically.

    Args:
        path: File to write.
        tensors: Name -> array of any shape.
        metadata: Texts to store in the header, such as {"format": "pt"}.

    Raises:
        UserError: An array has a dtype that the format does not have.
        OSError: The file cannot be written.
    """
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise UserError(f"{cut(name)} is {array.dtype}, which a safetensors file cannot hold")
    # Wide values first, so that every array is aligned in the file.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replaced(pathlib.Path(path)) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = arrays[name]
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            file.write(little.reshape(-1).view(np.uint8).data)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Place of one array: dtype, shape, first and last byte after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class _Header:
    """Contents of a header; ``size`` is the position of the first value in the file."""

    size: int
    tensors: dict[str, _Tensor]
    metadata: dict[str, str]


def _opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    try:
        return pathlib.Path(path).open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_header(file: IO[bytes], path: str | os.PathLike[str]) -> _Header:
    """Reads and checks the header: known dtypes, and arrays that fill the file without overlap."""
    total = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if total < 8 or length > min(_MAX_HEADER, total - 8):
        raise UserError(f"{path} is no safetensors file, or it is truncated")
    try:
        content = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} is no safetensors file: its header is no JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no safetensors file: its header is no JSON object")
    metadata = content.pop(_METADATA, {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise UserError(f"{path}: {_METADATA} in the header must hold texts")
    tensors = {name: _entry(name, entry, path) for name, entry in content.items()}
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise UserError(f"{path} is damaged: the values of {cut(name)} overlap or leave a gap")
        position = tensor.end
    if position != total - 8 - length:
        raise UserError(
            f"{path} is truncated or damaged: the header describes {position:,} bytes of values "
            f"and the file has {total - 8 - length:,}"
        )
    return _Header(8 + length, tensors, metadata)


def _entry(name: str, entry: Any, path: str | os.PathLike[str]) -> _Tensor:
    """Checks one array's description."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"{path}: {cut(name)} has the unknown dtype {short(dtype)}")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not (_are_sizes(shape) and len(shape) <= _MAX_AXES and _are_sizes(offsets)):
        raise UserError(f"{path}: {cut(name)} has no valid shape and offsets in the header")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UserError(
            f"{path}: {cut(name)} has shape {short(shape)}, which does not fit its offsets"
        )
    return _Tensor(_DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    """True for a list of integers from 0 to the largest array's size."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**47 for v in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice")
    return content
