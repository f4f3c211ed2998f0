"""Arrays in memory: the embedded digits and .npz files."""

import importlib.resources
import pathlib
import zipfile
import zlib

import numpy as np

from cssl_jax.data.sources import ArraySource
from cssl_jax.errors import UserError


def digits() -> ArraySource:
    """The embedded digits: 1,797 images [8, 8, 1] with labels 0 to 9."""
    # The UCI "Optical Recognition of Handwritten Digits" test set, 1,797 scans of 8 x 8 pixels with
    # 17 grey levels, as scikit-learn ships it (CC BY 4.0); digits.txt beside the file says more.
    with importlib.resources.files("cssl_jax.data").joinpath("digits.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        levels, labels = content["images"], content["labels"]
    images = ((levels.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return ArraySource("digits", images[..., None], labels.astype(np.int64))


def npz(path: pathlib.Path) -> ArraySource:
    """Opens a file with ``images`` uint8 [N, H, W(, C)] and, optional, ``labels`` int [N].

    Raises:
        UserError: Nothing is there, or what is there is no set of images.
    """
    if not path.is_file():
        raise UserError(
            f"data source {str(path)!r} does not exist; give the path of an .npz file with an "
            "array 'images' (uint8 [N, H, W, C]) and, optional, 'labels' (int [N])"
        )
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
        if labels.min() < -1:
            raise UserError(
                f"{path}: label {labels.min()} is negative; number the classes from 0, or give -1 "
                "to images without a label"
            )
        labels = labels.astype(np.int64)
    return ArraySource(path.name, images, labels)
