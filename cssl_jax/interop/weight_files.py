"""Opens files and folders of weights in any supported format."""

import dataclasses
import hashlib
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop import preprocessing, pytorch, safetensors
from cssl_jax.interop.encoders import stated_heads
from cssl_jax.interop.preprocessing import Preprocessing
from cssl_jax.interop.tf_files import tf_checkpoint

# Files of a folder that hold its weights, first choice first.
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(.*)\.data-\d{5}-of-\d{5}")  # values of a TensorFlow checkpoint
_MAX_NPZ = 2**36  # bytes of all arrays of an .npz file


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """Content of a file of weights.

    Attributes:
        path: The file.
        sha256: SHA-256 of the file, in hex; of a TensorFlow checkpoint that of its index and its
            files of values, one after another.
        tree: Nested dict of arrays, numbers and texts.
        preprocessing: Preparation of the images that the file or its folder states; None: none.
        heads: Number of attention heads that the file or its folder states; 0: none.
        stored: JSON that ``cssl-jax export`` stored in a safetensors file; empty without it.
    """

    path: pathlib.Path
    sha256: str
    tree: Mapping[str, Any]
    preprocessing: Preprocessing | None
    heads: int = 0
    stored: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def weights_in(place: pathlib.Path) -> pathlib.Path | None:
    """The file of weights that a path names.

    It is a file, that in a folder of timm, Hugging Face or TensorFlow, or the index of the
    TensorFlow checkpoint whose prefix is given. Returns None for a folder without such a file, such
    as a run folder.
    """
    if shard := _SHARD.fullmatch(place.name):
        place = place.with_name(shard[1])
    if place.is_file():
        return place
    names = [place / name for name in _IN_FOLDERS]
    found = [path for path in (_index(place), *names) if path.is_file()]
    if not found and place.is_dir():
        indices = sorted(place.glob("*.index"))
        found = [path for path in indices if len(tf_checkpoint.files(path)) > 1]
        newest = [path for path in found if path == _index(place / _newest(place))]
        if len(found) > 1 and not newest:
            raise UserError(f"{place} has {len(found)} checkpoints; give one, such as {found[0]}")
        found = newest or found
    return found[0] if found else None


def _index(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(f"{prefix.name}.index") if prefix.name else prefix


def _newest(folder: pathlib.Path) -> str:
    """Name that TensorFlow's file ``checkpoint`` in a folder gives; "" without one."""
    try:
        text = (folder / "checkpoint").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r'^model_checkpoint_path: "([^"\n]{1,1000})"', text, re.MULTILINE)
    return pathlib.PurePosixPath(found[1]).name if found else ""


def read_weights(place: pathlib.Path) -> WeightFile:
    """Reads a file of weights.

    It is safetensors, PyTorch's (.pth, .pt, .bin, .ckpt, .tar, .th), .npz or a checkpoint of
    TensorFlow (.index, with its files of values).

    Args:
        place: The file, a folder with model.safetensors, pytorch_model.bin or a checkpoint of
            TensorFlow, or the prefix of such a checkpoint.

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
    metadata = safetensors.read_metadata(path) if path.suffix == ".safetensors" else {}
    stored = preprocessing.stored_in(metadata)
    is_image = stored.get("input", {}).get("kind", "image") == "image"
    stated = preprocessing.from_metadata(metadata) if is_image else None
    return WeightFile(
        path=path,
        sha256=_sha256(tf_checkpoint.files(path) if path.suffix == ".index" else [path]),
        tree=tree,
        preprocessing=stated or preprocessing.from_folder(path.parent),
        heads=stated_heads(path, metadata),
        stored=stored,
    )


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hex."""
    return _sha256([path])


def _sha256(paths: list[pathlib.Path]) -> str:
    """SHA-256 of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


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
    ".index": tf_checkpoint.read,
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".tar", ".th"), pytorch.read),
}
