"""Images with a class per pixel: a folder of images and index masks, or an .npz file."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.image_folder import read_regular
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources import decode
from cssl_jax.data.sources.arrays import read_npz
from cssl_jax.data.sources.base import Images
from cssl_jax.data.sources.open import as_text, load_source
from cssl_jax.errors import UserError

IGNORED = 255  # mask value of a pixel without a class
LAYOUT = "a folder with images/NAME.* and masks/NAME.png, or an .npz file with images and masks"


@dataclasses.dataclass(frozen=True)
class MaskedSource:
    """Images and their masks, in the same order.

    Attributes:
        images: Source of the images; its labels are not used.
        masks: uint8 [size, H, W], or the path of every mask.
        num_classes: Number of classes, the largest class number of the whole set plus 1.
        max_pixels: Maximum height x width of a mask file. Larger files are refused before they are
            decoded.
    """

    images: Images
    masks: np.ndarray | Sequence[pathlib.Path]
    num_classes: int
    max_pixels: int = ImageOptions.max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> "MaskedSource":
        """Source of the examples at ``index``, int [n], in that order."""
        masks = (
            self.masks[index]
            if isinstance(self.masks, np.ndarray)
            else [self.masks[i] for i in index]
        )
        return dataclasses.replace(self, images=self.images.take(index), masks=masks)

    def mask(self, index: int) -> np.ndarray:
        """One mask at its full size, uint8 [h, w]: class number or ``IGNORED`` per pixel.

        Raises:
            UserError: The mask file cannot be read.
        """
        mask = self.masks[index]
        return mask if isinstance(mask, np.ndarray) else _read_mask(mask, self.max_pixels)

    def blocks(
        self, rows: int, size: int, interpolation: str = "bilinear"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields blocks of images and of the masks of their centre squares.

        A mask is resized by the nearest pixel, because interpolated values would be other classes.

        Args:
            rows: Maximum number of images per block.
            size: Side of the masks in pixels; for the images see ``Source.blocks``.
            interpolation: Kernel that images are resized with, "bilinear" or "bicubic".

        Yields:
            (images uint8 [r, h, w, C] as in ``Source.blocks``, masks uint8 [r, size, size]).
        """
        masks = map_ahead(lambda i: _centre_square(self.mask(i), size), range(len(self)))
        for examples in self.images.blocks(rows, size, interpolation):
            images = examples["image"]
            yield images, np.stack([next(masks) for _ in range(len(images))])


def load_masks(spec: str | os.PathLike[str], options: ImageOptions) -> MaskedSource:
    """Opens images with masks.

    Args:
        spec: A folder with images/NAME.* (at any depth) and masks/NAME.png, or an .npz file with
            ``images`` uint8 [N, H, W, C] and ``masks`` uint8 [N, H, W]. A mask file is an index or
            grey PNG whose values are the classes, 255 for no class.
        options: Options for reading the images; ``labels`` is ignored.

    Raises:
        UserError: There are no images, a mask is missing, or a mask has another size than its
            image.
    """
    path = pathlib.Path(as_text(spec)).expanduser()
    options = dataclasses.replace(options, labels="none")
    masks: np.ndarray | list[pathlib.Path]
    if path.suffix == ".npz":
        images = load_source(str(path), options)
        masks = _read_masks(path)
    elif (path / "images").is_dir() and (path / "masks").is_dir():
        images = load_source(str(path / "images"), options)
        masks = _mask_paths(path / "masks", images)
    else:
        raise UserError(f"{spec} is not a set of images with masks; give {LAYOUT}")
    source = MaskedSource(images, masks, 0, options.max_pixels)
    if len(masks) != len(images):
        raise UserError(
            f"{spec} has {len(images)} images, but {len(masks)} masks; give one mask per image"
        )
    largest = 0
    for index, mask in enumerate(map_ahead(source.mask, range(len(source)))):
        if mask.shape != tuple(source.images.sizes[index]):
            name = index if images.names is None else images.names[index]
            raise UserError(
                f"{spec}: the mask of image {name} has {mask.shape[0]} x {mask.shape[1]} pixels, "
                f"the image {' x '.join(map(str, images.sizes[index]))}; give both the same size"
            )
        largest = max(largest, int(mask[mask != IGNORED].max(initial=0)))
    if largest < 1:
        raise UserError(
            f"{spec}: the masks have fewer than two classes; the value of a pixel must be its "
            "class number, from 0"
        )
    return dataclasses.replace(source, num_classes=largest + 1)


def _read_masks(path: pathlib.Path) -> np.ndarray:
    masks = read_npz(path, ("masks",))["masks"]
    if masks.dtype != np.uint8 or masks.ndim != 3:
        raise UserError(f"{path}: masks are {masks.dtype} {masks.shape}; give uint8 [N, H, W]")
    return masks


def _mask_paths(folder: pathlib.Path, images: Images) -> list[pathlib.Path]:
    assert images.names is not None  # a source from a folder has names
    paths = [folder / pathlib.PurePath(name).with_suffix(".png") for name in images.names]
    missing = [str(path.relative_to(folder)) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}{more}; give every image a mask")
    return paths


def _read_mask(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    try:
        return decode.read_index_png(read_regular(path), max_pixels)
    except (OSError, decode.ImageError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        remedy = (
            "raise --data.max-pixels, or reduce the image and its mask"
            if getattr(error, "reason", "") == "oversize"
            else "write it again as a PNG whose pixel values are the classes, 255 for no class"
        )
        raise UserError(f"{path} cannot be read as a mask: {detail}; {remedy}") from error


def _centre_square(mask: np.ndarray, size: int) -> np.ndarray:
    """Centre square of a mask [h, w], resized to [size, size] by the nearest pixel."""
    height, width = mask.shape
    side = min(height, width)
    nearest = ((np.arange(size) + 0.5) * side / size).astype(int)
    rows, columns = (height - side) // 2 + nearest, (width - side) // 2 + nearest
    square: np.ndarray = mask[rows[:, None], columns]
    return square
