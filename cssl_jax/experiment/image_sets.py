"""Examination and splitting of a set of images, with the options and the limits of a run."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from cssl_jax.config import Config, ImageData
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning import check, scan, splits
from cssl_jax.data.formats.base import Records
from cssl_jax.errors import UserError
from cssl_jax.recipes import validate


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Result of ``check_data``; its text is the report of ``cssl-jax data check``.

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


def check_data(source: str, options: ImageOptions | None = None) -> DataCheck:
    """Examines a set of images: damaged files, duplicates, sizes, classes.

    Args:
        source: Images, given as ``data.source`` of a run: a folder, a .csv list,
            tfds:NAME@SPLIT, wds:SHARDS.tar, a .parquet file or file.py:NAME:PLACE.
        options: Options for reading the images; None: the defaults of a run.

    Raises:
        UserError: The source does not exist or contains no images, or an option is invalid.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np, PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(3):
        ...         pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        ...         PIL.Image.fromarray(pixels).save(f"{folder}/{number}.png")
        ...     _ = pathlib.Path(folder, "damaged.png").write_bytes(b"no image")
        ...     found = check_data(folder)
        >>> len(found.records.names), len(found.index.kept)
        (4, 3)
        >>> found.to_json()["sides"]
        {'short': [40, 40, 40], 'long': [48, 48, 48]}
    """
    options = _validated(options)
    records, index, groups = check.scan_source(source, options)
    try:
        scan.check_rejected_fraction(index, records.name, options.max_rejected)
    except UserError as error:
        return DataCheck(records, index, groups, str(error))
    return DataCheck(records, index, groups, "")


def split_data(
    source: str,
    output: str | pathlib.Path,
    options: ImageOptions | None = None,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.csv, validation.csv and test.csv: lists of images for ``data.source``.

    Every list has the same fraction of each class, near-duplicates are in the same list, and the
    same images and seed give the same lists on any machine. Damaged images are excluded.

    Args:
        source: Folder or .csv list of images.
        output: Folder to write the lists to; it is created if it does not exist.
        options: Options for reading the images; None: the defaults of a run.
        fractions: Fractions of the images in train.csv, validation.csv and test.csv. They sum to 1.
        seed: Seed of the random split.

    Returns:
        Path and number of images of every list that is not empty.

    Raises:
        UserError: More images are damaged than ``options.max_rejected`` allows, the fractions do
            not sum to 1, the source is no folder or list, or the output cannot be written.
    """
    return splits.split_source(
        source, pathlib.Path(output), _validated(options), fractions=fractions, seed=seed
    )


def _validated(options: ImageOptions | None) -> ImageOptions:
    """The options, checked as those of a run are."""
    options = options or ImageOptions()
    validate(Config(data=ImageData(**dataclasses.asdict(options))))
    return options
