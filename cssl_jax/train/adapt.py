"""Adaptation of a run's encoder to a domain without labels, beside its bounds and its floors."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.config import AdaptConfig, Config
from cssl_jax.data.sources import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.classified import NAME, ClassifierEvaluator
from cssl_jax.evaluate.encoder import Encoder, load_encoder
from cssl_jax.evaluate.evaluator import labelled_part, variables_hash
from cssl_jax.evaluate.features import Model, pixel_sides, pixels
from cssl_jax.evaluate.linear import L2_VALUES, linear_probe
from cssl_jax.files import write_json, write_text
from cssl_jax.methods.classifier import Classifier
from cssl_jax.recipes import to_json
from cssl_jax.train import setup
from cssl_jax.train.checkpoints import Checkpoints
from cssl_jax.train.folder import has_checkpoint
from cssl_jax.train.loop import pretrain
from cssl_jax.train.norm_statistics import reestimate
from cssl_jax.train.state import TrainState

METHODS = ("bn", "coral", "dann")
ROWS = {
    "source": "source only",
    "bn": "target's BatchNorm statistics",
    "coral": "Deep CORAL",
    "dann": "DANN",
    "target": "target-supervised",
    "random": "source only, from random weights",
    "pixels": "source only, on raw pixels",
}
RESULTS = "adaptation.json"
Figures = dict[str, Any]


def adapt(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    config: Config,
) -> Figures:
    """Trains classifiers on source labels, with and without adaptation, and judges them on both.

    All start from the run's encoder and differ in what the row says; a training that was done or
    broken off is gone on with. Figures are the last epoch's, which nothing chose, on the held-out
    images of either domain. The target's labels report, and train the row "target" alone.

    Args:
        run: Folder of the pretrained run.
        workdir: Folder to write to: a run folder a row and seed, and adaptation.json.
        methods: Of ``METHODS``.
        seeds: Of the trainings: ``train.seed`` and the next ones. The held-out images stay.
        config: Of the trainings, from ``finetune.finetune_config``, with ``adapt.target``. The
            batch is cut to the images that there are.

    Returns:
        The content of adaptation.json: "rows" by ``ROWS``, those that could be made, each with
        "target" and "source": {"top1" (a share in [0, 1] for each seed), "mean", "std" (None of one
        seed)}; "images" of each part; "leakage" of the target's held-out images.

    Raises:
        UserError: The run, the data or the config do not fit each other.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"method {method!r} is unknown; use {' or '.join(METHODS)}")
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give at least 1")
    if not config.adapt.target:
        raise UserError("adapt.target is empty; give the images of the domain to adapt to")
    folder = pathlib.Path(workdir).expanduser().absolute()
    data = _Data(config)
    config = data.resolved(config)
    pretrained = load_encoder(run)
    tops: dict[str, dict[str, list[float]]] = {}
    for seed in range(config.train.seed, config.train.seed + seeds):
        judge: Callable[[Model], dict[str, float]] | None = None
        for row, chosen in _trainings(config, methods, data).items():
            place = folder / f"{row}-seed{seed}"
            train = dataclasses.replace(chosen.train, seed=seed)
            pretrain(dataclasses.replace(chosen, train=train), place)
            encoder = load_encoder(place)
            judge = judge or _judge(encoder, data)
            _note(tops, row, judge(encoder.model))
            if row == "source" and "bn" in methods:
                adapted = _with_target_statistics(encoder, data.target, folder / f"bn-seed{seed}")
                _note(tops, "bn", judge(adapted))
    if (floor := _pixels(config, data)) is not None:
        tops["pixels"] = floor
    results = {
        "run": pathlib.Path(run).name,
        "encoder_hash": variables_hash(pretrained.model),
        "source": config.data.source,
        "target": config.adapt.target,
        "images": data.counts(),
        "seeds": seeds,
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
        "rows": {row: _summary(tops[row]) for row in ROWS if row in tops},
        "leakage": {
            name: leakage.look(part, data.target_test, f"{name} images that are trained on")
            for name, part in (("source", data.source), ("target", data.target))
        },
    }
    write_json(folder / RESULTS, results)
    return results


class _Data:
    """Training and held-out images of both domains.

    Attributes:
        source: Labelled.
        source_test: Labelled.
        target: Trained on without its labels, if it has any.
        target_test: Labelled, where there are labels.
    """

    def __init__(self, config: Config) -> None:
        classifier = dataclasses.replace(config.method, name="classifier")
        self.source, source_test = setup.load_data(dataclasses.replace(config, method=classifier))
        self.source_test = labelled_part(source_test)
        self.target, target_test = setup.load_target(config)
        self.target_test = labelled_part(target_test)
        setup.check_channels(self.target, self.source.channels)
        classes = [_class_names(part) for part in (self.source, self.target)]
        most = max(self.target.num_classes, self.target_test.num_classes)
        if all(classes) and classes[0] != classes[1]:
            raise UserError(
                f"the source has the classes {', '.join(classes[0])}, the target "
                f"{', '.join(classes[1])}; give both the same, or --adapt.target-labels none"
            )
        if most > self.source.num_classes:
            raise UserError(
                f"the target has labels up to {most - 1}, the source up to "
                f"{self.source.num_classes - 1}; number the classes of both alike"
            )

    @property
    def judged(self) -> bool:
        """Whether the target's held-out images have labels."""
        return _labels(self.target_test) > 0

    def counts(self) -> dict[str, int]:
        """Images of each part, and labels of the target's that train its own classifier."""
        return {
            "source": len(self.source),
            "source_test": len(self.source_test),
            "target": len(self.target),
            "target_labels": _labels(self.target),
            "target_test": len(self.target_test),
        }

    def resolved(self, config: Config) -> Config:
        """The config with the number of classes and a batch that fits both domains."""
        size = min(config.train.batch_size, len(self.source), len(self.target))
        classes = config.classifier.num_classes or self.source.num_classes
        return dataclasses.replace(
            config,
            classifier=dataclasses.replace(config.classifier, num_classes=classes),
            train=dataclasses.replace(config.train, batch_size=size),
        )


def _labels(source: Source) -> int:
    return 0 if source.labels is None else int(np.sum(source.labels >= 0))


def _class_names(source: Source) -> tuple[str, ...]:
    return getattr(getattr(source, "records", None), "classes", ())


def _trainings(config: Config, methods: Sequence[str], data: _Data) -> dict[str, Config]:
    """Row -> what to train, the source-only one first."""

    def named(config: Config, method: Any, adapt: AdaptConfig, **train: Any) -> Config:
        return dataclasses.replace(
            config,
            method=dataclasses.replace(config.method, name=method),
            adapt=adapt,
            train=dataclasses.replace(config.train, **train),
        )

    alone = AdaptConfig()  # what a training does not look at is no part of it
    trainings = {"source": named(config, "classifier", alone)}
    trainings |= {
        method: named(config, method, config.adapt) for method in methods if method != "bn"
    }
    if (labels := _labels(data.target)) and data.judged:
        supervised = setup.target_config(config)
        whole = dataclasses.replace(config.classifier, label_fraction=1.0)
        trainings["target"] = named(
            dataclasses.replace(supervised, classifier=whole),
            "classifier",
            alone,
            batch_size=min(config.train.batch_size, labels),
        )
    trainings["random"] = named(config, "classifier", alone, init="")
    return trainings


def _judge(encoder: Encoder, data: _Data) -> Callable[[Model], dict[str, float]]:
    """A function from a model to top-1 by domain; compiled once for models of one architecture."""
    parts = {"source": data.source_test}
    if data.judged:
        parts["target"] = data.target_test
    assert isinstance(encoder.method, Classifier)
    evaluators = {
        name: ClassifierEvaluator(encoder.config, encoder.method, encoder.spec, part, encoder.mesh)
        for name, part in parts.items()
    }
    modules = set(encoder.model["params"])

    def judge(model: Model) -> dict[str, float]:
        own = {
            part: {name: value for name, value in of.items() if name in modules}
            for part, of in model.items()
        }
        return {
            name: evaluator.judge(evaluator.features(own))[NAME]["top1"]
            for name, evaluator in evaluators.items()
        }

    return judge


def _with_target_statistics(encoder: Encoder, target: Source, place: pathlib.Path) -> Model:
    """The classifier with the target's BatchNorm statistics, kept as a run's last checkpoint."""
    if has_checkpoint(place):
        return load_encoder(place).model
    assert isinstance(encoder.method, Classifier)
    model = reestimate(
        encoder.method,
        encoder.model,
        target,
        encoder.spec,
        encoder.mesh,
        batch_size=encoder.config.train.batch_size,
        seed=encoder.config.train.seed,
    )
    origin = {"run": str(encoder.run), "step": encoder.step}
    meta = {**encoder.meta, "norm_statistics": {**origin, "images": target.fingerprint()}}
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / "config.json", to_json(encoder.config))
    with Checkpoints(place) as checkpoints:
        state = TrainState(jnp.int32(encoder.step), **model, method_state={}, opt_state={})
        checkpoints.save(jax.device_get(state), meta, {})
    return model


def _pixels(config: Config, data: _Data) -> dict[str, list[float]] | None:
    """Of logistic regression; None where pixels of the two domains are not of one shape."""
    if pixel_sides(data.source) != pixel_sides(data.target):
        return None
    train = pixels(data.source)
    tests = {"source": data.source_test, **({"target": data.target_test} if data.judged else {})}
    return {
        name: [
            linear_probe(
                train,
                np.asarray(data.source.labels),
                pixels(part),
                np.asarray(part.labels),
                num_classes=config.classifier.num_classes,
                l2_values=config.evaluate.l2_values or L2_VALUES,
                seed=config.train.seed,
            )["top1"]
        ]
        for name, part in tests.items()
    }


def _note(tops: dict[str, dict[str, list[float]]], row: str, top1: dict[str, float]) -> None:
    for domain, value in top1.items():
        tops.setdefault(row, {}).setdefault(domain, []).append(value)


def _summary(tops: dict[str, list[float]]) -> Figures:
    return {domain: spread(values) for domain, values in tops.items()}


def spread(values: Sequence[float]) -> Figures:
    """{"top1": the values, "mean", "std" (of a sample; None of a single value)}."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"top1": list(values), "mean": statistics.fmean(values), "std": deviation}


def table(results: Figures) -> str:
    """Top-1 of each row on both domains, as plain text."""
    images = results["images"]
    heads = [f"{name} ({images[f'{name}_test']:,})" for name in ("target", "source")]
    lines = [f"{'top-1 on held-out images':<36}" + "".join(f"{head:>18}" for head in heads)]
    for row, found in results["rows"].items():
        cells = [_cell(found.get(name)) for name in ("target", "source")]
        lines.append(f"{ROWS[row]:<36}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append(
        f"\nmean +- standard deviation over {results['seeds']} seed(s) of training; the last "
        "epoch, chosen by nothing.\nLabels of the target train the target-supervised row alone."
    )
    lines += [found["words"] for found in results["leakage"].values()]
    return "\n".join(lines)


def _cell(found: Figures | None) -> str:
    if found is None:
        return "no labels"
    deviation = "" if found["std"] is None else f" +- {100 * found['std']:.1f}"
    return f"{100 * found['mean']:.1f}{deviation} %"
