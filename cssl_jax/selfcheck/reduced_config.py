"""A recipe made small enough to take a few steps of on any machine, with what was changed."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from cssl_jax.config import Config
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.models.registry import encoder_entry

CHANNELS = 8  # of the stem
SIDE = 32  # pixels
HIDDEN, PROJECTIONS = 64, 32
BATCHES = 3  # in an epoch, so that 20 steps see several


def reduced(config: Config, devices: int) -> tuple[Config, list[str]]:
    """A smaller recipe with every kind of part that the large one has, and what was changed."""
    batch = min(config.train.batch_size, max(16, 2 * devices))
    batch = max(batch // devices, 1) * devices
    model, train = config.model, config.train
    smaller: dict[str, dict[str, Any]] = {
        "data": {"size": min(config.data.size, SIDE)},
        "model": {
            "encoder": encoder_entry(model.encoder).reduced or model.encoder,
            "width": min(model.width, CHANNELS / 64),
            # Half of the batch has all that groups of any size have.
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
        smaller["data"]["engine"] = "threads"  # the same views, started in less time
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
    """Writes enough training examples of a recipe for a few epochs; noise where it has none here.

    Args:
        config: The run.
        path: Where; an .npz file gets its suffix.

    Returns:
        The config that trains on all of them, and in words what they are. Computation is float32
        and weights are random, whatever the recipe says.

    Raises:
        UserError: The data and the config do not fit each other.
    """
    count = BATCHES * config.train.batch_size
    try:
        train, _ = builders.load_data(config)
        what = f"the first {min(count, len(train))} training examples of {config.data.source}"
        source = train.take(np.arange(min(count, len(train))))
        if len(train) < config.train.batch_size:
            raise UserError(
                f"{config.data.source} has {len(train)} training examples; give a smaller "
                "--train.batch-size"
            )
    except UserError as error:
        if "does not exist" not in str(error) and "not prepared" not in str(error):
            raise
        what, source = f"noise: {error}", None
    notes = [what]
    if config.model.dtype != "float32":
        notes.append(f"model.dtype {config.model.dtype} -> float32, for sums that can be compared")
    if config.train.init:
        notes.append("random weights instead of train.init")
    spec = _write(source, config, count, path)
    data = dataclasses.replace(config.data, source=spec, labels="none")
    model = dataclasses.replace(config.model, dtype="float32")
    return dataclasses.replace(config, data=data, model=model), "; ".join(notes)


def _write(source: Source | None, config: Config, count: int, path: pathlib.Path) -> str:
    """Arrays as arrays and pictures as pictures, so that they go the same way to the device."""
    arrays = isinstance(source, ArraySource) if source else _is_array(config.data.source)
    if arrays:
        images = source.images if isinstance(source, ArraySource) else noise(count, config)
        path = path.with_suffix(".npz")
        np.savez(path, images=np.stack(images) if isinstance(images, list) else images)
        return str(path)
    path.mkdir()
    pictures = noise(count, config) if source is None else map(source.image, range(len(source)))
    for number, picture in enumerate(pictures):
        squeezed = picture[..., 0] if picture.shape[-1] == 1 else picture
        Image.fromarray(squeezed).save(path / f"{number:06}.png", compress_level=1)
    return str(path)


def _is_array(spec: str) -> bool:
    return spec == "digits" or spec.endswith(".npz")


def noise(count: int, config: Config) -> list[np.ndarray]:
    """Pictures uint8 [h, w, C] that differ in colour and texture; of one size for arrays."""
    rng = np.random.default_rng(0)
    channels = len(config.data.mean) or config.data.channels
    side = config.data.size or SIDE
    pictures = []
    for _ in range(count):
        extra = (0, 0) if _is_array(config.data.source) else rng.integers(0, side // 2 + 1, 2)
        height, width = side + extra[0], side + extra[1]
        coarse = rng.integers(0, 192, (4, 4, channels))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        fine = rng.integers(0, 64, (height, width, channels))
        pictures.append((coarse[rows][:, columns] + fine).astype(np.uint8))
    return pictures
