"""Pictures with a class for every pixel: a folder of images and index masks, or an .npz file."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.image_folder import read_regular
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.data.sources import decode
from cssl_jax.data.sources.arrays import read_npz
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.open import as_text, load_source
from cssl_jax.errors import UserError

IGNORED = 255  # a pixel of no class
LAYOUT = "a folder with images/NAME.* and masks/NAME.png, or an .npz file with images and masks"


@dataclasses.dataclass(frozen=True)
class MaskedSource:
    """Images and their masks, in the same order.

    Attributes:
        images: Any source; its labels are not looked at.
        masks: uint8 [size, H, W], or the path of every mask.
        num_classes: One more than the largest class of the whole set.
        max_pixels: Maximum height x width of a mask file; larger ones are refused undecoded.
    """

    images: Source
    masks: np.ndarray | Sequence[pathlib.Path]
    num_classes: int
    max_pixels: int = ImageOptions.max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> "MaskedSource":
        """The examples at ``index`` int [n], in that order."""
        masks = (
            self.masks[index]
            if isinstance(self.masks, np.ndarray)
            else [self.masks[i] for i in index]
        )
        return dataclasses.replace(self, images=self.images.take(index), masks=masks)

    def mask(self, index: int) -> np.ndarray:
        """One mask as it is, uint8 [h, w]: a class, or ``IGNORED``."""
        mask = self.masks[index]
        return mask if isinstance(mask, np.ndarray) else _read(mask, self.max_pixels)

    def blocks(self, rows: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images as ``Source.blocks`` and the masks uint8 [r, size, size] of their centre squares.

        A mask is resized by the nearest pixel, so that no class arises between two.
        """
        masks = ahead(lambda i: _square(self.mask(i), size), range(len(self)))
        for images in self.images.blocks(rows, size):
            yield images, np.stack([next(masks) for _ in range(len(images))])


def load_masks(spec: str | os.PathLike[str], options: ImageOptions) -> MaskedSource:
    """Opens images with masks.

    Args:
        spec: A folder with images/NAME.* (pictures, at any depth) and masks/NAME.png (index or grey
            PNG: the value is the class, 255 is none), or an .npz file with ``images`` uint8
            [N, H, W, C] and ``masks`` uint8 [N, H, W].
        options: Of the pictures; their labels do not matter.

    Raises:
        UserError: Nothing is there, a mask is missing, or one does not fit its image.
    """
    path = pathlib.Path(as_text(spec)).expanduser()
    options = dataclasses.replace(options, labels="none")
    masks: np.ndarray | list[pathlib.Path]
    if path.suffix == ".npz":
        images = load_source(str(path), options)
        masks = _array(path)
    elif (path / "images").is_dir() and (path / "masks").is_dir():
        images = load_source(str(path / "images"), options)
        masks = _paths(path / "masks", images)
    else:
        raise UserError(f"{spec} is no set of images with masks; give {LAYOUT}")
    source = MaskedSource(images, masks, 0, options.max_pixels)
    if len(masks) != len(images):
        raise UserError(f"{spec} has {len(images)} images and {len(masks)} masks; give one each")
    largest = 0
    for index, mask in enumerate(ahead(source.mask, range(len(source)))):
        if mask.shape != tuple(source.images.sizes[index]):
            name = index if images.names is None else images.names[index]
            raise UserError(
                f"{spec}: the mask of image {name} has {mask.shape[0]} x {mask.shape[1]} pixels, "
                f"the image {' x '.join(map(str, images.sizes[index]))}; give both the same"
            )
        largest = max(largest, int(mask[mask != IGNORED].max(initial=0)))
    if largest < 1:
        raise UserError(
            f"{spec}: the masks hold fewer than two classes; a pixel's value is its class, from 0"
        )
    return dataclasses.replace(source, num_classes=largest + 1)


def _array(path: pathlib.Path) -> np.ndarray:
    masks = read_npz(path, ("masks",))["masks"]
    if masks.dtype != np.uint8 or masks.ndim != 3:
        raise UserError(f"{path}: masks are {masks.dtype} {masks.shape}; give uint8 [N, H, W]")
    return masks


def _paths(folder: pathlib.Path, images: Source) -> list[pathlib.Path]:
    assert images.names is not None  # of a folder
    paths = [folder / pathlib.PurePath(name).with_suffix(".png") for name in images.names]
    missing = [str(path.relative_to(folder)) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}{more}; give every image a mask")
    return paths


def _read(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    try:
        return decode.read_index_png(read_regular(path), max_pixels)
    except (OSError, decode.ImageError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        way_out = (
            "raise --data.max-pixels, or save the image and its mask smaller"
            if getattr(error, "reason", "") == "oversize"
            else "write it again as a PNG whose pixel values are the classes, 255 for none"
        )
        raise UserError(f"{path} cannot be read as a mask: {detail}; {way_out}") from error


def _square(mask: np.ndarray, size: int) -> np.ndarray:
    height, width = mask.shape
    side = min(height, width)
    nearest = ((np.arange(size) + 0.5) * side / size).astype(int)
    rows, columns = (height - side) // 2 + nearest, (width - side) // 2 + nearest
    return mask[rows[:, None], columns]
