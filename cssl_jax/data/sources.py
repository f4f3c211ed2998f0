"""Random-access sources of examples, their split, and their channel statistics."""

import dataclasses
import importlib.resources
import pathlib
import zipfile
import zlib

import numpy as np

from cssl_jax.data import sampler
from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images in memory.

    Attributes:
        name: For messages and results.
        images: uint8 [size, H, W, C].
        labels: int64 [size] in [0, classes), or None.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """One more than the largest label; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def fingerprint(self) -> str:
        """Tells sets apart: size, shape, labels or none, and a checksum of all bytes."""
        check = zlib.crc32(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            check = zlib.crc32(np.ascontiguousarray(self.labels).data, check)
        labels = "unlabelled" if self.labels is None else "labelled"
        return f"{list(self.images.shape)} {labels} {check:08x}"

    def take(self, index: np.ndarray) -> "ArraySource":
        """The examples at ``index`` int [n], in that order."""
        labels = None if self.labels is None else self.labels[index]
        return dataclasses.replace(self, images=self.images[index], labels=labels)


def load_source(spec: str) -> ArraySource:
    """Opens ``digits`` (embedded) or the path of an ``.npz`` file with ``images`` and ``labels``.

    Raises:
        UserError: Nothing is there, or what is there is no set of images.
    """
    if spec == "digits":
        return _digits()
    path = pathlib.Path(spec).expanduser()
    if path.suffix != ".npz":
        raise UserError(
            f"data source {spec!r} is unknown; give 'digits' or the path of an .npz file"
        )
    if not path.is_file():
        raise UserError(
            f"data source {spec!r} does not exist; give the path of an .npz file with an array "
            "'images' (uint8 [N, H, W, C]) and, optional, 'labels' (int [N])"
        )
    return _npz(path)


def _digits() -> ArraySource:
    # The UCI "Optical Recognition of Handwritten Digits" test set, 1,797 scans of 8 x 8 pixels with
    # 17 grey levels, as scikit-learn ships it (CC BY 4.0); digits.txt beside the file says more.
    with importlib.resources.files("cssl_jax.data").joinpath("digits.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        levels, labels = content["images"], content["labels"]
    images = ((levels.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return ArraySource("digits", images[..., None], labels.astype(np.int64))


def _npz(path: pathlib.Path) -> ArraySource:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files if name in ("images", "labels")}
            names = content.files
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy's own words would advise to unpickle the file, which nothing here ever does.
        raise UserError(
            f"{path} is no readable .npz file of plain arrays; write it with "
            "numpy.savez(path, images=..., labels=...)"
        ) from error
    if "images" not in arrays:
        raise UserError(f"{path} holds {names}; it needs an array named 'images'")
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: images are {images.dtype}; save them as uint8 in [0, 255] "
            "(for floats in [0, 1]: np.round(images * 255).astype(np.uint8))"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"{path}: images have shape {images.shape}; give [N, H, W, C] or [N, H, W]")
    if labels is not None:
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"{path}: labels are {labels.dtype} {labels.shape} beside {len(images)} images; "
                "give one integer an image"
            )
        if labels.min() < 0:
            raise UserError(f"{path}: label {labels.min()} is negative; number the classes from 0")
        labels = labels.astype(np.int64)
    return ArraySource(path.name, images, labels)


def split(size: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits [0, size) by a keyed permutation: (training, validation) indices, each sorted.

    Raises:
        UserError: The fraction is outside [0, 1), or leaves a part empty that should not be.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"data.validation_fraction is {fraction}; give a share within [0, 1)")
    held_out = round(size * fraction)
    if held_out == size or (fraction > 0.0 and held_out == 0):
        raise UserError(
            f"data.validation_fraction {fraction} of {size} images leaves {held_out} to validate "
            f"on and {size - held_out} to train on; neither part may be empty"
        )
    order = sampler.permute(np.arange(size), sampler.epoch_key(seed, 0), size)
    return np.sort(order[held_out:]).astype(np.int64), np.sort(order[:held_out]).astype(np.int64)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of uint8 [N, H, W, C], on the scale [0, 1].

    A constant channel gets a standard deviation of 1/255, one grey level, so that dividing by it is
    safe.
    """
    channels = images.shape[-1]
    # Exact from counts of the 256 values, whatever the size and without a float copy of the images.
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(channels):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(max(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())), 1 / 255))
    return tuple(means), tuple(stds)
