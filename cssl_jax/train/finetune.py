"""Fine-tuning a run's encoder with few labels or many, beside the floors."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax import processes, recipes, runtime
from cssl_jax.config import Config
from cssl_jax.data.sources import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.evaluator import labelled_part
from cssl_jax.evaluate.features import pixels
from cssl_jax.evaluate.linear import L2_VALUES, linear_probe
from cssl_jax.files import existing_run, write_json
from cssl_jax.train import setup
from cssl_jax.train.checkpoints import Checkpoints
from cssl_jax.train.loop import pretrain

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
    config: Config | None = None,
) -> dict[str, Any]:
    """Trains classifiers from a run's weights and from random ones, for each share of the labels.

    A training that was done or broken off is gone on with. The learning rate is scaled by the batch
    that is used, which is as large as the labelled images allow.

    Args:
        run: Folder of the pretrained run.
        workdir: Folder to write to: a run folder for every training, and finetune.json.
        fractions: Shares of each class's labelled training images; at least one image of each.
        config: Of the trainings, from ``finetune_config``; None is that.

    Returns:
        The content of finetune.json: by fraction the number of labels, accuracies of "pretrained",
        "random" (the same training from random weights) and "pixels" (logistic regression on raw
        pixels with the same labels), on the same validation images.

    Raises:
        UserError: The run, the data or the config do not fit each other.
    """
    runtime.join("finetune")
    config = config or finetune_config(run)
    folder = pathlib.Path(workdir).expanduser().absolute()
    if not fractions:
        raise UserError("no share of the labels is given; give one or more, such as 0.1 1.0")
    results: dict[str, Any] = {"run": pathlib.Path(run).name, "fractions": {}}
    for fraction in fractions:
        resolved, parts = processes.together(functools.partial(_resolve, config, fraction))
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
            }
        found["pixels"] = _pixels(*parts, resolved)
        results["fractions"][f"{fraction:g}"] = found
        results["selection"] = trained["selection"]
        processes.by_first(lambda: write_json(folder / "finetune.json", results))
    return results


def _resolve(config: Config, fraction: float) -> tuple[Config, tuple[Source, Source]]:
    """The config of one share of the labels, and its data."""
    classifier = dataclasses.replace(config.classifier, label_fraction=fraction)
    train, validation = setup.load_data(dataclasses.replace(config, classifier=classifier))
    classifier = dataclasses.replace(
        classifier, num_classes=classifier.num_classes or train.num_classes
    )
    size = min(config.train.batch_size, len(train))
    resolved = dataclasses.replace(
        config, classifier=classifier, train=dataclasses.replace(config.train, batch_size=size)
    )
    return resolved, (train, validation)


def _pixels(train: Source, validation: Source, config: Config) -> dict[str, float]:
    validation = labelled_part(validation)
    found = linear_probe(
        pixels(train),
        np.asarray(train.labels),
        pixels(validation),
        np.asarray(validation.labels),
        num_classes=config.classifier.num_classes,
        l2_values=config.evaluate.l2_values or L2_VALUES,
        seed=config.train.seed,
    )
    return {name: found[name] for name in ("top1", "top5")}


def table(results: dict[str, Any]) -> str:
    """Top-1 by share of the labels, as plain text."""
    rows = {**STARTS, "pixels": "logistic regression on raw pixels"}
    fractions = results["fractions"]
    heads = [f"{100 * float(share):g} % ({found['labels']})" for share, found in fractions.items()]
    lines = [f"{'top-1 by labels':<36}" + "".join(f"{head:>16}" for head in heads)]
    for name, label in rows.items():
        cells = [f"{100 * found[name]['top1']:.1f} %" for found in fractions.values()]
        lines.append(f"{label:<36}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)
