"""Reduces a recipe so that any machine can run a few of its steps; lists the changes."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from cssl_jax.config import Config
from cssl_jax.errors import MissingDataError, UserError
from cssl_jax.experiment import data_splits
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.models.registry import encoder_entry

CHANNELS = 8  # maximum channels of the stem
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
    data = modality_entry(config.data.modality).reduced(config.data)
    entry = encoder_entry(model.encoder)
    smaller: dict[str, dict[str, Any]] = {
        "data": data,
        "model": {
            "encoder": entry.reduced or model.encoder,
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
    if "patch" in entry.options and "size" in data:  # whole patches of the smaller views
        smaller["model"]["patch"] = math.gcd(model.patch, data["size"])
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
        path: Folder to write, or file to write with a suffix of the modality.

    Returns:
        The config that trains on all these examples, and their description. The config computes in
        float32 from random weights, whatever the recipe says.

    Raises:
        UserError: The data has fewer training examples than a batch, or the config does not fit
            it.
    """
    count = BATCHES * config.train.batch_size
    try:
        train, _ = data_splits.load_data(config)
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
    modality = modality_entry(config.data.modality)
    if modality.write is None:
        raise UserError(
            f"selfcheck cannot write {modality.noun}: data.modality {config.data.modality!r} has "
            "no function for it; give its record `write`"
        )
    notes = [description]
    if config.model.dtype != "float32":
        notes.append(f"model.dtype {config.model.dtype} -> float32, so that sums can be compared")
    if config.train.init:
        notes.append("random weights instead of train.init")
    spec = modality.write(source, config.data, count, path)
    values = {"data.source": spec, "data.labels": "none", "model.dtype": "float32"}
    return config.replace(values), "; ".join(notes)
