"""Image arrays in memory: the embedded digits and .npz files."""

import importlib.resources
import pathlib
from collections.abc import Sequence

import numpy as np

from cssl_jax.data.formats.schema import dense_numbers
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import MissingDataError, UserError

# An array of more than _BOMB_BYTES that is compressed by more than _BOMB_RATIO is a zip bomb:
# images do not compress so well.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100
_USUAL_CHANNELS = (1, 2, 3, 4)


def digits() -> ArraySource:
    """Opens the embedded digits: 1,797 images, uint8 [1797, 8, 8, 1], with labels 0 to 9.

    The source is the test set of UCI "Optical Recognition of Handwritten Digits", 1,797 scans of
    8 x 8 pixels with 17 grey levels, as scikit-learn ships it (CC BY 4.0). digits.txt in
    ``cssl_jax.data`` has the details.
    """
    with importlib.resources.files("cssl_jax.data").joinpath("digits.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        levels, labels = content["images"], content["labels"]
    # Levels 0 to 16 are scaled to 0 to 255 and rounded to the nearest value.
    images = ((levels.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return ArraySource("digits", images[..., None], labels.astype(np.int64))


def npz(path: pathlib.Path) -> ArraySource:
    """Opens an .npz file of images.

    Args:
        path: File with the array ``images``, uint8 [N, H, W, C] or [N, H, W], and optionally
            ``labels``, int [N], -1 for no label, and ``classes``, str [num_classes], class names in
            the order of the class numbers.

    Raises:
        MissingDataError: The file does not exist.
        UserError: The file cannot be read, or an array has the wrong shape, type or values.
    """
    if not path.is_file():
        raise MissingDataError(
            f"data source {str(path)!r} does not exist; give the path of an .npz file with an "
            "array 'images' (uint8 [N, H, W, C]) and optionally 'labels' (int [N])"
        )
    arrays = read_npz(path, ("images",), ("labels", "classes"))
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: images are {images.dtype}; save them as uint8 in [0, 255] "
            "(for floats in [0, 1]: np.round(images * 255).astype(np.uint8))"
        )
    _check_axes(path, images.shape)
    if images.ndim == 3:
        images = images[..., None]
    classes: tuple[str, ...] = ()
    if labels is not None:
        _check_labels(path, labels, len(images))
        classes = _class_names(path, arrays.get("classes"), labels)
        labels, names = dense_numbers(labels, str(path), named=bool(classes))
        classes = classes or names
    return ArraySource(path.name, images, labels, classes=classes)


def _check_axes(path: pathlib.Path, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or 0 in shape:
        raise UserError(f"{path}: images have shape {shape}; give [N, H, W, C] or [N, H, W]")
    if order := channels_first(shape):
        raise UserError(
            f"{path}: images have shape {shape}, with {shape[1]} channel(s) before height and "
            f"width; save them as [N, H, W, C]: numpy.transpose(images, {order})"
        )
    if len(shape) == 3 and shape[2] in _USUAL_CHANNELS and min(shape[:2]) > max(_USUAL_CHANNELS):
        raise UserError(
            f"{path}: images have shape {shape}, which is either one image of {shape[2]} "
            f"channel(s) or {shape[0]} images of width {shape[2]}; save one image as images[None], "
            "and grey images as [N, H, W, 1]"
        )


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes that transpose images of this shape to [N, H, W, C]; None if they have that order.

    The last axis may have any number of channels. It is taken as the width if it is not a usual
    number of channels (1 to 4), and the second axis either is a usual number or is shorter than two
    identical axes after it: [N, 3, 32, 32], [N, 3, 32, 48], [N, 13, 64, 64]. If the second and the
    third axis are identical they are height and width, such as in patches of 9 x 9 pixels with 200
    bands, [N, 9, 9, 200].

    Args:
        shape: Shape of the images, with 3 or 4 axes.
    """
    if len(shape) != 4 or shape[3] in _USUAL_CHANNELS or shape[1] == shape[2]:
        return None
    square = shape[2] == shape[3] and shape[1] < shape[2]
    return (0, 2, 3, 1) if shape[1] in _USUAL_CHANNELS or square else None


def _check_labels(path: pathlib.Path, labels: np.ndarray, images: int) -> None:
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels are {labels.dtype} {labels.shape}, but there are {images} images; "
            "give one integer per image"
        )
    if labels.min() < -1:
        raise UserError(
            f"{path}: label {labels.min()} is negative; number the classes from 0, and give -1 "
            "to images without a label"
        )


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
            f"{path}: label {labels.max()} has no name in the {len(classes)} classes; give one "
            "string per class number, starting at 0"
        )
    return tuple(classes.tolist())


def read_npz(
    path: pathlib.Path, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file by name.

    Args:
        path: The file.
        required: Names of arrays that the file must contain.
        optional: Names of arrays that may be missing.

    Returns:
        {name: array} of all required arrays and of the optional ones that the file contains.

    Raises:
        UserError: The file cannot be read, contains objects, lacks an array, or is a zip bomb.
    """
    requested = (*required, *optional)
    try:
        with np.load(path, allow_pickle=False) as content:
            names = content.files
            _refuse_bomb(path, content)
            arrays = {name: content[name] for name in names if name in requested}
    except UserError:
        raise
    except Exception as error:  # zip, its compressions and NumPy's headers raise many types
        # The message of NumPy advises to unpickle the file. Unpickling runs code from the file, so
        # that this package never does it.
        raise UserError(
            f"{path} is not a readable .npz file of plain arrays; write it with "
            f"numpy.savez(path, {', '.join(f'{name}=...' for name in requested)})"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of other members
            raise UserError(f"{path}: {name!r} is not an array; write it with numpy.savez")
    for name in required:
        if name not in arrays:
            series = "; series are read by recipe series" if "values" in names else ""
            raise UserError(f"{path} contains {names}; it needs an array named {name!r}{series}")
    return arrays


def _refuse_bomb(path: pathlib.Path, content: np.lib.npyio.NpzFile) -> None:
    for member in content.zip.infolist():  # type: ignore[union-attr]
        size = member.file_size
        if size > _BOMB_BYTES and size > _BOMB_RATIO * member.compress_size:
            raise UserError(
                f"{path}: {member.filename!r} would decompress from "
                f"{member.compress_size / 2**20:.1f} to {size / 2**20:.0f} MiB, more than images "
                "ever do; write it with numpy.savez"
            )
