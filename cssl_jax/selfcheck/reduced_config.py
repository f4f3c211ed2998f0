"""Reduces a recipe so that any machine can run a few of its steps; lists the changes."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from cssl_jax.config import Config
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.data.sources.open import is_array_source
from cssl_jax.errors import MissingDataError, UserError
from cssl_jax.experiment import builders
from cssl_jax.models.registry import encoder_entry

CHANNELS = 8  # maximum channels of the stem
SIDE = 32  # maximum side of a view in pixels
HIDDEN, PROJECTIONS = 64, 32  # maximum widths of the projection head: hidden layers, output
BATCHES = 3  # batches per epoch, so that 20 steps cover several epochs


def reduced(config: Config, devices: int) -> tuple[Config, list[str]]:
    """A smaller recipe with the same kinds of components.

    Args:
        config: Config of the run.
        devices: Maximum number of devices, over which the reduced batch divides.

    Returns:
        The reduced config, and its changes as lines "section.field old -> new".
    """
    batch = min(config.train.batch_size, max(16, 2 * devices))
    batch = max(batch // devices, 1) * devices
    model, train = config.model, config.train
    smaller: dict[str, dict[str, Any]] = {
        "data": {"size": min(config.data.size, SIDE)},
        "model": {
            "encoder": encoder_entry(model.encoder).reduced or model.encoder,
            "width": min(model.width, CHANNELS / 64),
            # Two groups: enough to cover statistics over a fraction of the batch.
            "norm_group": batch // 2 if 0 < model.norm_group < train.batch_size else 0,
            "projector_hidden": min(model.projector_hidden, HIDDEN),
            "projector_dim": min(model.projector_dim, PROJECTIONS),
        },
        "train": {
            "batch_size": batch,
            "micro_batch": devices if 0 < train.micro_batch < train.batch_size else 0,
        },
    }
    if config.data.engine == "auto":
        smaller["data"]["engine"] = "threads"  # the same views with a faster start
    changes = []
    for section, values in smaller.items():
        old = getattr(config, section)
        new = dataclasses.replace(old, **values)
        config = dataclasses.replace(config, **{section: new})
        changes += [
            f"{section}.{name} {getattr(old, name)} -> {value}"
            for name, value in values.items()
            if getattr(old, name) != value
        ]
    return config, changes


def examples_of(config: Config, path: pathlib.Path) -> tuple[Config, str]:
    """Writes training examples of a recipe for a few epochs; noise if its data does not exist.

    Args:
        config: Config of the run.
        path: Folder to write; arrays are written to a file of this name with the suffix .npz.

    Returns:
        The config that trains on all these examples, and their description. The config computes in
        float32 from random weights, whatever the recipe says.

    Raises:
        UserError: The data has fewer training examples than a batch, or the config does not fit
            it.
    """
    count = BATCHES * config.train.batch_size
    try:
        train, _ = builders.load_data(config)
        description = (
            f"the first {min(count, len(train))} training examples of {config.data.source}"
        )
        source = train.take(np.arange(min(count, len(train))))
        if len(train) < config.train.batch_size:
            raise UserError(
                f"{config.data.source} has {len(train)} training examples; give a smaller "
                "--train.batch-size"
            )
    except MissingDataError as error:
        description, source = f"noise: {error}", None
    notes = [description]
    if config.model.dtype != "float32":
        notes.append(f"model.dtype {config.model.dtype} -> float32, so that sums can be compared")
    if config.train.init:
        notes.append("random weights instead of train.init")
    spec = _write(source, config, count, path)
    values = {"data.source": spec, "data.labels": "none", "model.dtype": "float32"}
    return config.replace(values), "; ".join(notes)


def _write(source: Source | None, config: Config, count: int, path: pathlib.Path) -> str:
    """Writes arrays or image files, as the recipe's own data is: its pipeline stays the same.

    Returns:
        The value of ``data.source`` for what was written.
    """
    arrays = isinstance(source, ArraySource) if source else is_array_source(config.data.source)
    if arrays:
        images = source.images if isinstance(source, ArraySource) else noise(count, config)
        path = path.with_suffix(".npz")
        np.savez(path, images=np.stack(images) if isinstance(images, list) else images)
        return str(path)
    path.mkdir()
    contents = noise(count, config) if source is None else map(source.image, range(len(source)))
    for number, image in enumerate(contents):
        squeezed = image[..., 0] if image.shape[-1] == 1 else image  # Pillow's form of greyscale
        Image.fromarray(squeezed).save(path / f"{number:06}.png", compress_level=1)
    return str(path)


def noise(count: int, config: Config) -> list[np.ndarray]:
    """Random images uint8 [h, w, C] that differ in colour and texture.

    Args:
        count: Number of images.
        config: Config of the run, which gives the channels and the minimum side in pixels.

    Returns:
        The images, all of one size if the recipe's source is an array.
    """
    rng = np.random.default_rng(0)
    channels = len(config.data.mean) or config.data.channels
    side = config.data.size or SIDE
    images = []
    for _ in range(count):
        # Image files differ in size, so that crops and resizing are part of the check.
        extra = (0, 0) if is_array_source(config.data.source) else rng.integers(0, side // 2 + 1, 2)
        height, width = side + extra[0], side + extra[1]
        coarse = rng.integers(0, 192, (4, 4, channels))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        fine = rng.integers(0, 64, (height, width, channels))
        images.append((coarse[rows][:, columns] + fine).astype(np.uint8))
    return images
