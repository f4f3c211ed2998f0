"""Reads PyTorch's .pth and .pt files without torch and without executing their pickle."""

import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop import inert_pickle
from cssl_jax.interop.inert_pickle import PickleError, Storage, Tensor, is_size

# torch.serialization: the first three pickles of a file that torch before 1.6 wrote.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_PICKLE = 2**28  # bytes of a zip file's data.pkl
_MAX_AXES = 32
_MAX_DEPTH = 6  # nested dicts; VISSL nests its weights in four
# Copies of values that tensors with overlapping storages may take, relative to the file.
_MAX_COPIES = 4
# Parts of training checkpoints that hold arrays and no weights.
_NO_WEIGHTS = frozenset(
    ("optimizer", "optimizers", "optimizer_states", "lr_schedulers", "scaler", "amp", "callbacks")
)

# PickleError and UnicodeDecodeError are ValueErrors; the others are raised by zipfile.
_DAMAGE = (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OverflowError, struct.error)

Values = Callable[[Storage], np.ndarray]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the weights of a PyTorch file, of torch 0.4 or newer.

    Args:
        path: File that ``torch.save`` wrote: a state dict, or a training checkpoint with state
            dicts in it.

    Returns:
        Nested dict of arrays, numbers and texts. Lists, objects, and the state of optimizers are
        omitted. Arrays of shared storages may share memory.

    Raises:
        UserError: The file cannot be read, is damaged, holds no dict, or names a function that no
            file of weights needs. Nothing in the file is ever called.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file, path) if is_zip else _read_legacy(file, path)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no PyTorch file: {cut(str(error))}") from error


def _read_zip(file: io.BufferedReader, path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of torch 1.6 or newer: a zip archive of data.pkl and one member per storage."""
    total = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1 or not roots[0].endswith("/"):
            raise UserError(f"{path} is a zip file, but none that torch.save wrote")
        root = roots[0]
        if root + "constants.pkl" in names:
            raise UserError(
                f"{path} is a TorchScript program; save the state_dict of its module with torch"
            )

        def member(name: str, most: int) -> bytes:
            try:
                info = archive.getinfo(root + name)
            except KeyError:
                raise PickleError(f"it lacks {name}") from None
            is_stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if not (is_stored and info.file_size == info.compress_size <= min(total, most)):
                raise PickleError(f"the size of {name} is wrong, or it is compressed")
            return archive.read(info)

        if root + "byteorder" in names and member("byteorder", 16) != b"little":
            raise UserError(f"{path} has big-endian values, which are not supported")
        tree = inert_pickle.load(io.BytesIO(member("data.pkl", _MAX_PICKLE)))
        blobs: dict[str, np.ndarray] = {}

        def values(storage: Storage) -> np.ndarray:
            if storage.key not in blobs:
                # Members of a hostile archive may overlap, and so be larger than it together.
                if sum(map(len, blobs.values())) > total:
                    raise PickleError("its members are larger than the file")
                blobs[storage.key] = np.frombuffer(member(f"data/{storage.key}", total), np.uint8)
            return _typed(blobs[storage.key], storage)

        return _Weights(values, total).of(tree, path)


def _read_legacy(file: io.BufferedReader, path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of torch before 1.6: five pickles, then the values of every storage."""
    total = os.fstat(file.fileno()).st_size
    pickles = _Clamped(file, total)
    if inert_pickle.load(pickles) != _MAGIC or inert_pickle.load(pickles) != _PROTOCOL:
        raise UserError(
            f"{path} is a pickle, but none that torch.save wrote; open it with its own program and "
            "save the arrays as safetensors"
        )
    system = inert_pickle.load(pickles)
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise UserError(f"{path} has big-endian values, which are not supported")
    storages: dict[str, Storage] = {}
    tree, keys = inert_pickle.load(pickles, storages), inert_pickle.load(pickles)
    if not isinstance(keys, list):
        raise PickleError("the list of storages is missing")
    blobs: dict[str, np.ndarray] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if not isinstance(key, str) or key not in storages or key in blobs:
            raise PickleError("the list of storages is damaged")
        size = count * storages[key].dtype.itemsize
        if not is_size(count) or size > total - file.tell():
            raise PickleError("a storage is larger than the file")
        blobs[key] = np.frombuffer(file.read(size), np.uint8)

    def values(storage: Storage) -> np.ndarray:
        if storage.key not in blobs:
            raise PickleError("the values of a tensor are missing")
        return _typed(blobs[storage.key], storage)

    return _Weights(values, total).of(tree, path)


class _Clamped:
    """File whose ``read`` allocates no more than the rest of the file, whatever is requested."""

    def __init__(self, file: io.BufferedReader, total: int) -> None:
        self._file, self._total = file, total
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        """Reads at most ``count`` bytes."""
        return self._file.read(min(count, self._total - self._file.tell()))


def _typed(blob: np.ndarray, storage: Storage) -> np.ndarray:
    """The values of a storage from the bytes of its key."""
    size = storage.dtype.itemsize
    content = blob[storage.start * size : (storage.start + storage.count) * size]
    if len(content) != storage.count * size:
        raise PickleError("a storage is shorter than the file says")
    return content.view(storage.dtype)


class _Weights:
    """Turns an interpreted pickle into nested dicts of arrays."""

    def __init__(self, values: Values, file_size: int) -> None:
        self._values = values
        self._room = _MAX_COPIES * file_size  # bytes that all arrays together may still take
        self._seen: set[int] = set()  # a dict may contain itself, or others many times

    def of(self, tree: Any, path: pathlib.Path) -> dict[str, Any]:
        """Nested dict of a whole file.

        Raises:
            UserError: The file holds something else, such as a whole module.
        """
        if not isinstance(tree, dict):
            raise UserError(
                f"{path} holds no dict of weights, but perhaps a whole module; save its state_dict"
            )
        return self._converted(tree, 0)

    def _converted(self, node: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in node.items():
            if not isinstance(key, str) or key in _NO_WEIGHTS:
                continue
            if isinstance(value, Tensor):
                content[key] = self._array(key, value)
            elif isinstance(value, dict) and depth < _MAX_DEPTH and id(value) not in self._seen:
                self._seen.add(id(value))
                content[key] = self._converted(value, depth + 1)
            elif isinstance(value, str | int | float):
                content[key] = value
        return content

    def _array(self, name: str, tensor: Tensor) -> np.ndarray:
        """Array of a tensor, after a check that all of it lies within its storage."""
        size, stride, count = tensor.size, tensor.stride, tensor.storage.count
        fits = (
            isinstance(size, tuple)
            and isinstance(stride, tuple)
            and len(size) == len(stride) <= _MAX_AXES
            and all(map(is_size, (*size, *stride, tensor.offset)))
        )
        if not fits:
            raise PickleError(f"{cut(name)} has no valid shape")
        total = math.prod(size)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if total and (last >= count or total > count):
            raise PickleError(f"{cut(name)} has shape {cut(str(size))}, more than its values")
        self._room -= total * tensor.storage.dtype.itemsize
        if self._room < 0:
            raise PickleError("its tensors are larger than the file")
        values = self._values(tensor.storage)
        if not total:
            return np.zeros(size, values.dtype)
        steps = [step * values.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], size, steps)
        return np.ascontiguousarray(view) if view.ndim else view.copy()
