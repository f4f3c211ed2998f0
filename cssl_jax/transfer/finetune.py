"""Fine-tuning of a run's encoder with a fraction of the labels, compared with baselines."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.checkpoint.run_meta import run_meta
from cssl_jax.config import FINETUNE_STEPS, Config
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.evaluate.ranking_split import labelled_examples
from cssl_jax.evaluate.results import Selection
from cssl_jax.evaluate.scores import Accuracy
from cssl_jax.experiment import data_splits
from cssl_jax.files import existing_run, write_json
from cssl_jax.optim.schedules import scaled_learning_rate
from cssl_jax.runtime import multihost, process
from cssl_jax.train.pretrain import pretrain
from cssl_jax.transfer.transfer_report import FINETUNE
from cssl_jax.transfer.transfer_results import (
    STARTS,
    FinetuneResults,
    FractionScores,
    TrainedScores,
)

_REFERENCE_BATCH = 256  # images: batch size to which stated learning rates refer


def finetune_config(run: str | pathlib.Path) -> Config:
    """Returns the default config of ``finetune`` for a run; every field may be changed.

    The config has the run's data, split, input size and normalisation, and the operations of its
    policy that keep labels: of images crops, flips and affine maps, no colour operations. The
    optimizer is SGD with Nesterov momentum 0.9, learning rate 0.05 N / 256, no weight decay and no
    warm-up, for 30 epochs (arXiv 2002.05709, App. B.5, with the cosine schedule of its code).

    Args:
        run: Folder of the pretrained run.

    Raises:
        UserError: The folder is no run, or has no checkpoint.
    """
    folder, meta = existing_run(run), run_meta(run)
    base = recipes.from_dict(meta["config"])
    modality = data_splits.modality_of(base)
    spec = modality.spec.from_dict(meta["input"])
    split_seed = base.train.seed if base.data.split_seed is None else base.data.split_seed
    return recipes.with_method(base, "classifier").replace(
        {
            **modality.supervised(spec),
            # Another train.seed must not move held-out images into the training split.
            "data.split_seed": split_seed,
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.05,
            "optimizer.scaling": "linear",
            "optimizer.schedule": "cosine",
            "optimizer.warmup_epochs": 0.0,
            "optimizer.weight_decay": 0.0,
            "optimizer.momentum": 0.9,
            "optimizer.nesterov": True,
            "optimizer.trust_clip": False,
            "train.epochs": 30,
            "train.init": str(folder),
            "train.micro_batch": 0,
            "train.micro_batch_norm": "batch",
        }
    )


def finetune(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    fractions: Sequence[float] = (1.0,),
    min_steps: int = FINETUNE_STEPS,
    config: Config | None = None,
) -> FinetuneResults:
    """Trains classifiers from a run's weights and from random weights, per fraction of the labels.

    Finished training runs are reused, and interrupted ones are resumed.

    If the labelled images do not fill a batch, the batch is all of them. The learning rate is then
    that of the config's batch or of 256 images, whichever is smaller. A linear scaling rule would
    lower it because small samples are noisy, but the full labelled set is not a noisy sample.

    Args:
        run: Folder of the pretrained run.
        workdir: Output folder, for one run folder per training run and finetune.json.
        fractions: Fractions of the labelled training images per class, each in (0, 1]; at least
            one image per class.
        min_steps: Minimum number of steps per training run. If train.epochs give fewer, the number
            of epochs is increased, and warm-up, evaluations and checkpoints are stretched by the
            same factor. 0: use train.epochs.
        config: Config of the training runs; None: ``finetune_config`` of the run.

    Returns:
        Content of finetune.json. It has per fraction the number of labels and the accuracies, on
        the same validation images, of "pretrained", "random" (same training from random weights),
        "features" and every baseline of the modality, such as "pixels" (logistic regression with
        the same labels on the run's frozen features, and on raw inputs). "baseline_labels"
        describes the baselines.

    Raises:
        UserError: The run, the data and the config are incompatible.
    """
    process.join_processes("finetune")
    config = config or finetune_config(run)
    folder = pathlib.Path(workdir).expanduser().absolute()
    if not fractions:
        raise UserError(
            "fractions is empty; give one or more fractions of the labels, such as 0.1 1.0"
        )
    if min_steps < 0:
        raise UserError(f"min_steps is {min_steps}; give 0 or more")
    encoder: Encoder = load_encoder(run)
    baselines = encoder.modality.baselines.items()
    results = FinetuneResults(
        run=pathlib.Path(run).name,
        baseline_labels={name: baseline.label for name, baseline in baselines},
        fractions={},
        key_order=("run", "baseline_labels"),
    )
    for fraction in fractions:
        resolved, sources = multihost.run_on_all(
            functools.partial(_resolve, config, fraction, min_steps)
        )
        scores, selection = _fraction_scores(
            encoder, resolved, sources, str(folder / f"{fraction:g}-")
        )
        results = dataclasses.replace(
            results,
            fractions={**results.fractions, f"{fraction:g}": scores},
            selection=selection,
        )
        content = results.to_json()
        multihost.run_on_primary(functools.partial(write_json, folder / FINETUNE, content))
    return results


def _fraction_scores(
    encoder: Encoder, config: Config, sources: tuple[Source, Source], folder: str
) -> tuple[FractionScores, Selection | None]:
    """Trains and evaluates all classifiers of one fraction of the labels.

    Args:
        encoder: Encoder of the pretrained run.
        config: Config of the training runs, see ``_resolve``.
        sources: Labelled training images and validation images.
        folder: Start of the paths of the runs' folders.
    """
    trained: dict[str, TrainedScores] = {}
    for start in STARTS:
        start_config = config.replace(
            {"train.init": config.train.init if start == "pretrained" else ""}
        )
        results = pretrain(start_config, f"{folder}{start}")
        assert results.classifier is not None
        trained[start] = TrainedScores.from_json(
            {
                **results.classifier,
                "batch_size": config.train.batch_size,
                "epochs": config.train.epochs,
                "steps": results.step,
                "learning_rate": _peak_rate(config, config.train.batch_size),
            }
        )
    scores = FractionScores(
        labels=len(sources[0]),
        pretrained=trained["pretrained"],
        random=trained["random"],
        features=_logistic_regression(encoder.embed, *sources, config),
        extra={
            name: _logistic_regression(baseline.fitted_on(sources[0]), *sources, config)
            for name, baseline in encoder.modality.baselines.items()
        },
    )
    return scores, results.selection


def _resolve(
    config: Config, fraction: float, min_steps: int
) -> tuple[Config, tuple[Source, Source]]:
    """Config of one fraction of the labels, with its training and validation images."""
    classifier = dataclasses.replace(config.classifier, label_fraction=fraction)
    train, validation = data_splits.load_data(dataclasses.replace(config, classifier=classifier))
    num_classes = max(train.num_classes, validation.num_classes)
    classifier = dataclasses.replace(classifier, num_classes=classifier.num_classes or num_classes)
    config = dataclasses.replace(config, classifier=classifier)
    resolved = adjust_to_labels(config, len(train), min_steps)
    if multihost.is_single_process() and resolved.train.batch_size < config.train.batch_size:
        available = config.runtime.devices or jax.local_device_count()
        # Use fewer devices if the smaller batch does not divide over all of them.
        devices = math.gcd(resolved.train.batch_size, available)
        runtime = dataclasses.replace(config.runtime, devices=devices)
        resolved = dataclasses.replace(resolved, runtime=runtime)
    return resolved, (train, validation)


def adjust_to_labels(config: Config, labels: int, min_steps: int) -> Config:
    """Adjusts batch size, learning rate and epochs to a number of labels; see ``finetune``."""
    requested, size = config.train.batch_size, min(config.train.batch_size, labels)
    scaled = _peak_rate(config, size)
    rate = max(scaled, _peak_rate(config, min(requested, _REFERENCE_BATCH)))
    if size < requested and rate > scaled:
        config = config.replace({"optimizer.learning_rate": rate, "optimizer.scaling": "none"})
    config = config.replace({"train.batch_size": size})
    epochs = math.ceil(min_steps / (labels // size))
    return _stretch(config, epochs) if epochs > config.train.epochs else config


def _peak_rate(config: Config, batch_size: int) -> float:
    """Peak learning rate of the schedule for a batch size in images."""
    options = config.optimizer
    return scaled_learning_rate(options.learning_rate, batch_size, options.scaling)


def _stretch(config: Config, epochs: int) -> Config:
    """Config with more epochs and unchanged numbers of evaluations and checkpoints."""
    train, factor = config.train, epochs / config.train.epochs
    return config.replace(
        {
            "optimizer.warmup_epochs": factor * config.optimizer.warmup_epochs,
            "train.epochs": epochs,
            "train.evaluate_every": round(factor * train.evaluate_every),
            "train.checkpoint_every": round(factor * train.checkpoint_every),
        }
    )


def _logistic_regression(
    features: Callable[[Source], np.ndarray], train: Source, validation: Source, config: Config
) -> Accuracy:
    validation = labelled_examples(validation)
    metrics = linear_probe(
        features(train),
        np.asarray(train.labels),
        features(validation),
        np.asarray(validation.labels),
        num_classes=config.classifier.num_classes,
        l2_values=config.evaluate.l2_values or L2_VALUES,
        seed=config.train.seed,
    )
    return Accuracy(top1=metrics.top1, top5=metrics.top5)
