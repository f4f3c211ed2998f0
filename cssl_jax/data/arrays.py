"""Arrays in memory: the embedded digits and .npz files."""

import importlib.resources
import pathlib
from collections.abc import Sequence

import numpy as np

from cssl_jax.data.sources import ArraySource
from cssl_jax.errors import UserError

# An archive that unpacks to more of these bytes, this many times its own, holds no pictures.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100


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
    """Opens an array file of images.

    It holds ``images`` uint8 [N, H, W(, C)] and, optional, ``labels`` int [N], -1 for none, and
    ``classes`` str [num_classes], the class names in the order of their numbers.

    Raises:
        UserError: Nothing is there, or what is there is no set of images.
    """
    if not path.is_file():
        raise UserError(
            f"data source {str(path)!r} does not exist; give the path of an .npz file with an "
            "array 'images' (uint8 [N, H, W, C]) and, optional, 'labels' (int [N])"
        )
    arrays = read_npz(path, ("images",), ("labels", "classes"))
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
    classes: tuple[str, ...] = ()
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
        classes = _class_names(path, arrays.get("classes"), labels)
    return ArraySource(path.name, images, labels, classes=classes)


def _class_names(
    path: pathlib.Path, classes: np.ndarray | None, labels: np.ndarray
) -> tuple[str, ...]:
    if classes is None:
        return ()
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise UserError(
            f"{path}: classes are {classes.dtype} {classes.shape}; give one string per class, in "
            "the order of the class numbers"
        )
    if labels.max(initial=-1) >= len(classes):
        raise UserError(
            f"{path}: label {labels.max()} has no name among the {len(classes)} classes; give one "
            "string per class number from 0"
        )
    return tuple(classes.tolist())


def read_npz(
    path: pathlib.Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file by name; one of ``optional`` may be absent.

    Raises:
        UserError: The file cannot be read, holds objects, lacks an array, or is a zip bomb.
    """
    wanted = (*needed, *optional)
    try:
        with np.load(path, allow_pickle=False) as content:
            names = content.files
            _refuse_bomb(path, content)
            arrays = {name: content[name] for name in names if name in wanted}
    except UserError:
        raise
    except Exception as error:  # of zip, its compressions and NumPy's headers, of many kinds
        # NumPy's own message would advise to unpickle the file, which nothing here ever does.
        raise UserError(
            f"{path} is no readable .npz file of plain arrays; write it with "
            f"numpy.savez(path, {', '.join(f'{name}=...' for name in wanted)})"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is none
            raise UserError(f"{path}: {name!r} is no array; write it by numpy.savez")
    for name in needed:
        if name not in arrays:
            raise UserError(f"{path} holds {names}; it needs an array named {name!r}")
    return arrays


def _refuse_bomb(path: pathlib.Path, content: np.lib.npyio.NpzFile) -> None:
    for member in content.zip.infolist():  # type: ignore[union-attr]
        size = member.file_size
        if size > _BOMB_BYTES and size > _BOMB_RATIO * member.compress_size:
            raise UserError(
                f"{path}: {member.filename!r} would unpack from {member.compress_size / 2**20:.1f} "
                f"to {size / 2**20:.0f} MiB, which no pictures do; write it by numpy.savez"
            )
