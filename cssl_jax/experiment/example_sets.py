"""Examination and splitting of a set of examples, by the modality that its source is of."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from cssl_jax.config import Config, ImageData
from cssl_jax.config.images import ImageOptions
from cssl_jax.modalities.registry import modality_of_source
from cssl_jax.recipes import validate


def check_data(source: str, options: ImageOptions | None = None) -> Any:
    """Examines a set of images, series, recordings or texts, as ``cssl-jax data check`` does.

    Args:
        source: Examples, given as ``data.source`` of a run. Images: a folder, a .csv list,
            tfds:NAME@SPLIT, wds:SHARDS.tar, a .parquet file or file.py:NAME:PLACE.
        options: Options for reading images; None: the defaults of a run. Of recordings, ``labels``
            applies.

    Returns:
        ``DataCheck`` of images, ``SetCheck`` of other examples.

    Raises:
        UserError: The source does not exist or contains no examples, or an option is invalid.

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
    return modality_of_source(source).examine(source, _validated(options))


def split_data(
    source: str,
    output: str | pathlib.Path,
    options: ImageOptions | None = None,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.csv, validation.csv and test.csv: lists of images for ``data.source``.

    Of series and texts these are .npz and .jsonl files, see ``split_series`` and ``split_texts``;
    of recordings lists, see ``split_audio``. Every list has the same fraction of each class,
    near-duplicates are in the same list, and the same images and seed give the same lists on any
    machine. Damaged images are excluded.

    Args:
        source: Folder or .csv list of images or recordings, or a file of series or texts.
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
    divide = modality_of_source(source).divide
    return divide(source, pathlib.Path(output), _validated(options), fractions, seed)


def _validated(options: ImageOptions | None) -> ImageOptions:
    """The options, checked as those of a run are."""
    options = options or ImageOptions()
    validate(Config(data=ImageData(**dataclasses.asdict(options))))
    return options
