"""Fine-tuning a run's encoder with few labels or many, beside the floors."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import FINETUNE_STEPS, Config
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.evaluator import labelled_part
from cssl_jax.evaluate.features import pixels
from cssl_jax.evaluate.load import Encoder, load_encoder
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.experiment import builders
from cssl_jax.files import existing_run, write_json
from cssl_jax.optim.optimizers import scaled_learning_rate
from cssl_jax.runtime import multihost, process
from cssl_jax.train.pretrain import pretrain

_FULL_BATCH = 256  # images: the batch that learning rates are stated for
STARTS = {"pretrained": "fine-tuned from the run", "random": "the same from random weights"}


def finetune_config(run: str | pathlib.Path) -> Config:
    """What ``finetune`` does to a run by default, every field open to change.

    The run's data, split, size and normalisation; its crops, flips and affine maps without colour
    operations; SGD with Nesterov momentum 0.9, learning rate 0.05 N / 256, no weight decay and no
    warm-up, 30 epochs (arXiv 2002.05709, App. B.5; cosine as in its code).

    Raises:
        UserError: There is no run, or no checkpoint.
    """
    folder = existing_run(run)
    with Checkpoints(folder, read_only=True) as checkpoints:
        meta = checkpoints.meta()
    base = recipes.from_dict(meta["config"])
    seen = meta["input"]
    split_seed = base.train.seed if base.data.split_seed is None else base.data.split_seed
    return dataclasses.replace(
        base,
        data=dataclasses.replace(
            base.data,
            size=seen["size"],
            mean=tuple(seen["mean"]),
            std=tuple(seen["std"]),
            split_seed=split_seed,  # another seed must not train on what was held out
        ),
        augment=dataclasses.replace(
            base.augment, jitter=(0.0,), grayscale=(0.0,), blur=(0.0,), solarize=(0.0,)
        ),
        method=dataclasses.replace(base.method, name="classifier"),
        optimizer=dataclasses.replace(
            base.optimizer,
            name="sgd",
            learning_rate=0.05,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=0.0,
            momentum=0.9,
            nesterov=True,
            trust_clip=False,
        ),
        train=dataclasses.replace(
            base.train, epochs=30, init=str(folder), micro_batch=0, micro_batch_norm="batch"
        ),
    )


def finetune(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    fractions: Sequence[float] = (1.0,),
    min_steps: int = FINETUNE_STEPS,
    config: Config | None = None,
) -> dict[str, Any]:
    """Trains classifiers from a run's weights and from random ones, for each share of the labels.

    A training that was done or broken off is gone on with. Where the labelled images do not fill a
    batch, the batch is all of them, and the learning rate that of the config's batch or of 256
    images, whichever is smaller: a linear rule lowers it for the noise of a small sample, and all
    the images there are are no sample.

    Args:
        run: Folder of the pretrained run.
        workdir: Folder to write to: a run folder for every training, and finetune.json.
        fractions: Shares of each class's labelled training images; at least one image of each.
        min_steps: Where train.epochs are fewer steps, a training gets as many epochs as make these,
            and its warm-up, evaluations and checkpoints are as much further apart; 0 leaves it.
        config: Of the trainings, from ``finetune_config``; None is that.

    Returns:
        The content of finetune.json: by fraction the number of labels, accuracies of "pretrained",
        "random" (the same training from random weights), "features" and "pixels" (logistic
        regression with the same labels on the run's frozen features and on raw pixels), on the same
        validation images.

    Raises:
        UserError: The run, the data or the config do not fit each other.
    """
    process.join("finetune")
    config = config or finetune_config(run)
    folder = pathlib.Path(workdir).expanduser().absolute()
    if not fractions:
        raise UserError("no share of the labels is given; give one or more, such as 0.1 1.0")
    if min_steps < 0:
        raise UserError(f"min_steps is {min_steps}; give 0 or more")
    encoder: Encoder = load_encoder(run)
    results: dict[str, Any] = {"run": pathlib.Path(run).name, "fractions": {}}
    for fraction in fractions:
        resolved, parts = multihost.run_on_all(
            functools.partial(_resolve, config, fraction, min_steps)
        )
        found: dict[str, Any] = {"labels": len(parts[0])}
        for start in STARTS:
            init = resolved.train.init if start == "pretrained" else ""
            chosen = dataclasses.replace(
                resolved, train=dataclasses.replace(resolved.train, init=init)
            )
            trained = pretrain(chosen, folder / f"{fraction:g}-{start}")
            found[start] = {
                **trained["classifier"],
                "batch_size": chosen.train.batch_size,
                "epochs": chosen.train.epochs,
                "steps": trained["step"],
                "learning_rate": _rate(chosen, chosen.train.batch_size),
            }
        found["features"] = _logistic_regression(encoder.embed, *parts, resolved)
        found["pixels"] = _logistic_regression(pixels, *parts, resolved)
        results["fractions"][f"{fraction:g}"] = found
        results["selection"] = trained["selection"]
        multihost.run_on_primary(lambda: write_json(folder / "finetune.json", results))
    return results


def _resolve(
    config: Config, fraction: float, min_steps: int
) -> tuple[Config, tuple[Source, Source]]:
    """The config of one share of the labels, and its data."""
    classifier = dataclasses.replace(config.classifier, label_fraction=fraction)
    train, validation = builders.load_data(dataclasses.replace(config, classifier=classifier))
    most = max(train.num_classes, validation.num_classes)
    classifier = dataclasses.replace(classifier, num_classes=classifier.num_classes or most)
    config = dataclasses.replace(config, classifier=classifier)
    resolved = for_labels(config, len(train), min_steps)
    if multihost.is_single_process() and resolved.train.batch_size < config.train.batch_size:
        available = config.runtime.devices or jax.local_device_count()
        devices = math.gcd(resolved.train.batch_size, available)  # those that it divides over
        fewer = dataclasses.replace(config.runtime, devices=devices)
        resolved = dataclasses.replace(resolved, runtime=fewer)
    return resolved, (train, validation)


def for_labels(config: Config, labels: int, min_steps: int) -> Config:
    """The config of a training with so many labelled images; see ``finetune``."""
    asked, size = config.train.batch_size, min(config.train.batch_size, labels)
    rate = _rate(config, size)
    wanted = max(rate, _rate(config, min(asked, _FULL_BATCH)))
    if size < asked and wanted > rate:
        optimizer = dataclasses.replace(config.optimizer, learning_rate=wanted, scaling="none")
        config = dataclasses.replace(config, optimizer=optimizer)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size))
    epochs = math.ceil(min_steps / (labels // size))
    return _stretched(config, epochs) if epochs > config.train.epochs else config


def _rate(config: Config, batch_size: int) -> float:
    """The highest learning rate of a schedule with this batch."""
    options = config.optimizer
    return scaled_learning_rate(options.learning_rate, batch_size, options.scaling)


def _stretched(config: Config, epochs: int) -> Config:
    """The config with more epochs, and as many evaluations and checkpoints as before."""
    train, times = config.train, epochs / config.train.epochs
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(
            config.optimizer, warmup_epochs=times * config.optimizer.warmup_epochs
        ),
        train=dataclasses.replace(
            train,
            epochs=epochs,
            evaluate_every=round(times * train.evaluate_every),
            checkpoint_every=round(times * train.checkpoint_every),
        ),
    )


def _logistic_regression(
    features: Callable[[Source], np.ndarray], train: Source, validation: Source, config: Config
) -> dict[str, float]:
    validation = labelled_part(validation)
    found = linear_probe(
        features(train),
        np.asarray(train.labels),
        features(validation),
        np.asarray(validation.labels),
        num_classes=config.classifier.num_classes,
        l2_values=config.evaluate.l2_values or L2_VALUES,
        seed=config.train.seed,
    )
    return {name: found[name] for name in ("top1", "top5")}


def table(results: dict[str, Any]) -> str:
    """Top-1 by share of the labels and how long was trained for it, as plain text."""
    rows = {
        **STARTS,
        "features": "logistic regression on its features",
        "pixels": "logistic regression on raw pixels",
    }
    fractions = results["fractions"]
    heads = [
        f"{100 * float(share):g} % ({found['labels']:,})" for share, found in fractions.items()
    ]
    cells = {"top-1 by labels": heads}
    for name, label in rows.items():
        cells[label] = [f"{100 * found[name]['top1']:.1f} %" for found in fractions.values()]
    trained = [found["pretrained"] for found in fractions.values()]
    cells["steps, images each"] = [f"{x['steps']:,} x {x['batch_size']:,}" for x in trained]
    cells["learning rate"] = [f"{x['learning_rate']:.2g}" for x in trained]
    return "\n".join(
        f"{label:<36}" + "".join(f"{cell:>16}" for cell in row) for label, row in cells.items()
    )
