"""Sets of images: examined, split, written for a check, or assumed without being read."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from cssl_jax.config.data import ImageData
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning import check, scan, splits
from cssl_jax.data.formats.base import Records
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import ArraySource, Images
from cssl_jax.data.sources.open import is_array_source
from cssl_jax.errors import UserError

REDUCED_SIDE = 32  # maximum side of a view in pixels in a check


def reduced(data: ImageData) -> dict[str, Any]:
    """Values of ``data`` for a check on small views."""
    values: dict[str, Any] = {"size": min(data.size, REDUCED_SIDE)}
    if data.engine == "auto":
        values["engine"] = "threads"  # the same views with a faster start
    return values


def write(source: Images | None, data: ImageData, count: int, path: pathlib.Path) -> str:
    """Writes arrays or image files, as the recipe's own data is: its pipeline stays the same.

    Args:
        source: Images to write; None: noise.
        data: Section ``data`` of the config.
        count: Number of images of noise.
        path: Folder to write; arrays are written to a file of this name with the suffix .npz.

    Returns:
        The value of ``data.source`` for what was written.
    """
    arrays = isinstance(source, ArraySource) if source else is_array_source(data.source)
    if arrays:
        images = source.images if isinstance(source, ArraySource) else noise(count, data)
        path = path.with_suffix(".npz")
        np.savez(path, images=np.stack(images) if isinstance(images, list) else images)
        return str(path)
    path.mkdir()
    contents = noise(count, data) if source is None else map(source.image, range(len(source)))
    for number, image in enumerate(contents):
        squeezed = image[..., 0] if image.shape[-1] == 1 else image  # Pillow's form of greyscale
        Image.fromarray(squeezed).save(path / f"{number:06}.png", compress_level=1)
    return str(path)


def noise(count: int, data: ImageData) -> list[np.ndarray]:
    """Random images uint8 [h, w, C] that differ in colour and texture.

    Args:
        count: Number of images.
        data: Section ``data`` of the config, which gives the channels and the minimum side.

    Returns:
        The images, all of one size if the source is an array.
    """
    rng = np.random.default_rng(0)
    channels = len(data.mean) or data.channels
    side = data.size or REDUCED_SIDE
    images = []
    for _ in range(count):
        # Image files differ in size, so that crops and resizing are part of the check.
        extra = (0, 0) if is_array_source(data.source) else rng.integers(0, side // 2 + 1, 2)
        height, width = side + extra[0], side + extra[1]
        coarse = rng.integers(0, 192, (4, 4, channels))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        fine = rng.integers(0, 64, (height, width, channels))
        images.append((coarse[rows][:, columns] + fine).astype(np.uint8))
    return images


def assumed(data: ImageData, count: int) -> tuple[ImageSpec, Any]:
    """Input and examples with the sizes that the config names, for data that is not read.

    Args:
        data: Section ``data`` of the config.
        count: Number of examples.

    Returns:
        (specification with placeholders for mean and standard deviation, shapes of all images;
        None for image files, which a host decodes).

    Raises:
        UserError: The size of a view depends on the images.
    """
    size, channels = data.size, len(data.mean) or data.channels
    if not size:
        raise UserError(
            "data.size is 0, which means the height of the images, and plan does not read these; "
            "give the side of a view, e.g. --data.size 32"
        )
    spec = ImageSpec(size, channels, (0.5,) * channels, (0.25,) * channels)
    if not is_array_source(data.source):
        return spec, None
    return spec, {"image": jax.ShapeDtypeStruct((count, size, size, channels), np.uint8)}


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Result of ``check_data`` on images; its text is the report of ``cssl-jax data check``.

    Attributes:
        records: Images of the set that have a known format, in the order of their names.
        index: Facts per image: size, format, digest, reason for its exclusion.
        groups: Groups of near-duplicates among the kept images, as image numbers.
        problem: Reason why a run on these images would stop; "" if it would start.
    """

    records: Records
    index: scan.ScanIndex
    groups: check.Groups
    problem: str

    def __str__(self) -> str:
        text = check.report(self.records, self.index, self.groups)
        return f"{text}\n\na run would stop: {self.problem}" if self.problem else text

    def to_json(self) -> dict[str, Any]:
        """Returns all values of the report as JSON types; docs/data.md describes the keys."""
        return check.summarize(self.records, self.index, self.groups)

    def rejected_csv(self) -> str:
        """Returns the images that a run would exclude, with the reasons, as CSV text."""
        return scan.rejected_csv(scan.rejected(self.records.names, self.index))


def examine(source: str, options: ImageOptions) -> DataCheck:
    """Examines a set of images: damaged files, duplicates, sizes, classes.

    Raises:
        UserError: The source does not exist or contains no images.
    """
    records, index, groups = check.scan_source(source, options)
    try:
        scan.check_rejected_fraction(index, records.name, options.max_rejected)
    except UserError as error:
        return DataCheck(records, index, groups, str(error))
    return DataCheck(records, index, groups, "")


def divide(
    source: str, output: pathlib.Path, options: ImageOptions, fractions: Sequence[float], seed: int
) -> list[tuple[pathlib.Path, int]]:
    """Splits a set of images into lists."""
    return splits.split_source(source, output, options, fractions=fractions, seed=seed)
