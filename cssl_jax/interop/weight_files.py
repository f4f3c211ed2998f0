"""Opens files and folders of weights in any supported format."""

import dataclasses
import hashlib
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop import preprocessing, pytorch, safetensors
from cssl_jax.interop.encoders import stated_heads
from cssl_jax.interop.preprocessing import Preprocessing

# Files of a folder that hold its weights, first choice first.
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_MAX_NPZ = 2**36  # bytes of all arrays of an .npz file


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """Content of a file of weights.

    Attributes:
        path: The file.
        sha256: SHA-256 of the file, in hex.
        tree: Nested dict of arrays, numbers and texts.
        preprocessing: Preparation of the images that the file or its folder states; None: none.
        heads: Number of attention heads that the file or its folder states; 0: none.
    """

    path: pathlib.Path
    sha256: str
    tree: Mapping[str, Any]
    preprocessing: Preprocessing | None
    heads: int = 0


def weights_in(place: pathlib.Path) -> pathlib.Path | None:
    """The file of weights that a path names: a file, or that in a timm or Hugging Face folder.

    Returns None for a folder without such a file, such as a run folder.
    """
    if place.is_file():
        return place
    found = (place / name for name in _IN_FOLDERS)
    return next((path for path in found if path.is_file()), None)


def read_weights(place: pathlib.Path) -> WeightFile:
    """Reads a file of weights: safetensors, PyTorch (.pth, .pt, .bin, .ckpt, .tar, .th) or .npz.

    Args:
        place: The file, or a folder with model.safetensors or pytorch_model.bin.

    Raises:
        UserError: The format is unknown, or the file is damaged.
    """
    path = weights_in(place)
    if path is None:
        raise UserError(
            f"{place} is no file of weights and no folder with {' or '.join(_IN_FOLDERS)}"
        )
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(
            f"{path} has the suffix {path.suffix!r}; weights are read from "
            f"{', '.join(sorted(_READERS))}"
        )
    tree = read(path)
    is_safetensors = path.suffix == ".safetensors"
    metadata = safetensors.read_metadata(path) if is_safetensors else {}
    stated = preprocessing.from_metadata(metadata)
    return WeightFile(
        path=path,
        sha256=file_sha256(path),
        tree=tree,
        preprocessing=stated or preprocessing.from_folder(path.parent),
        heads=stated_heads(path, metadata),
    )


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; arrays of Python objects, which are pickles, are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_NPZ:
                raise UserError(f"{path} unpacks to more than {_MAX_NPZ:,} bytes")
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read: {cut(str(error))}") from error


_READERS: dict[str, Callable[[pathlib.Path], Mapping[str, Any]]] = {
    ".safetensors": safetensors.read,
    ".npz": _read_npz,
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".tar", ".th"), pytorch.read),
}
