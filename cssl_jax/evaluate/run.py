"""Evaluation of a finished run, on its own data or on other."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from cssl_jax.config import Config, DataConfig, EvaluateConfig, recipes
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.masks import MaskedSource
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.evaluator import Checkpoint, Evaluator, halves, labelled_part
from cssl_jax.evaluate.load import Encoder, load_encoder
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.protocols.segment_run import load_masked_splits, segment
from cssl_jax.experiment import builders
from cssl_jax.files import existing_run, write_json
from cssl_jax.runtime import multihost, process


def evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None = None,
    *,
    data: DataConfig | None = None,
    options: EvaluateConfig | None = None,
) -> dict[str, Any]:
    """Evaluates a run's last and best checkpoint, on the run's own data or on other.

    The figures go into the run's results.json: those on its own data in place of earlier ones of
    the same step, those on other data below "transfer" by the name of the source.

    Args:
        run: Folder of the run.
        protocol: One of ``protocols.PROTOCOLS``, or several; None is all of them. "segment", by
            itself, takes images with masks, see ``data.sources.masks.load_masks``.
        data: Labelled images to fit and report on; None is the run's. With another source, a
            validation_source or labels that the run's own had are its own no longer.
        options: Of the protocols; None is the run's.

    Returns:
        ``Evaluator.report``'s figures (of "segment", ``segment_run.segment``'s), with "source",
        "validation_source" and "split".

    Raises:
        UserError: A protocol, the data or an option does not fit.
        RunError: A protocol changed the encoder.
    """
    process.join("evaluate")
    with multihost.watched():
        return _evaluate_run(run, protocol, data, options)


def _evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None,
    data: DataConfig | None,
    options: EvaluateConfig | None,
) -> dict[str, Any]:
    names = protocols.PROTOCOLS if protocol is None else protocol
    names = (names,) if isinstance(names, str) else tuple(names)
    protocols.check_names(names)  # before the run is opened
    multihost.run_on_all(lambda: existing_run(run))
    encoder = load_encoder(run)
    own = encoder.config
    process.set_compile_cache(own.runtime.compile_cache)
    if protocols.SEGMENT in names:
        return _segment(encoder, data, options)

    def opened() -> tuple[Config, Source, Source, Evaluator]:
        config = _with(own, data, options)
        train, validation = builders.load_data(config)
        for part in (train, validation):
            encoder.check_channels(part)
        evaluator = Evaluator(
            config, encoder.method.encoder, encoder.spec, train, validation, encoder.mesh
        )
        if protocol is not None and not evaluator.labelled:
            raise UserError(
                f"protocol {names[0]!r} needs labels on both parts; training images have "
                f"{'some' if train.labels is not None else 'none'}, validation images "
                f"{'some' if validation.labels is not None else 'none'}"
            )
        return config, train, validation, evaluator

    config, train, validation, evaluator = multihost.run_on_all(opened)
    _require_same(encoder, config, train, validation, {"protocols": names})
    last = Checkpoint(encoder.step, encoder.model)
    best = load_encoder(run, checkpoint="best")
    transfer = _images(config.data) != _images(own.data)
    figures = {
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(train), "validation": len(validation)},
        "notes": list(dict.fromkeys((*train.notes, *validation.notes))),
        **evaluator.report(
            last,
            last if best.step == last.step else Checkpoint(best.step, best.model),
            encoder.untrained,
            names,
            chose_best=not transfer or validation.fingerprint() == encoder.data["validation"],
            ranked=_ranked(own) if transfer else None,
        ),
    }
    if transfer:
        figures["leakage"]["pretraining"] = _leakage_of_pretraining(own, validation)
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", figures, transfer))
    return figures


def _segment(
    encoder: Encoder, data: DataConfig | None, options: EvaluateConfig | None
) -> dict[str, Any]:
    def opened() -> tuple[Config, MaskedSource, MaskedSource]:
        config = _with(encoder.config, data, options)
        return config, *load_masked_splits(config)

    config, train, validation = multihost.run_on_all(opened)
    classes = [train.num_classes, validation.num_classes]
    also = {"protocols": (protocols.SEGMENT,), "classes of masks": classes}
    _require_same(encoder, config, train.images, validation.images, also)
    figures = {
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(train), "validation": len(validation)},
        **segment(encoder, config, train, validation),
    }
    figures["leakage"]["pretraining"] = _leakage_of_pretraining(encoder.config, validation.images)
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", figures, transfer=True))
    return figures


def _require_same(
    encoder: Encoder, config: Config, train: Source, validation: Source, also: dict[str, Any]
) -> None:
    """Makes sure that all processes evaluate the same."""
    multihost.require_same(
        {
            "run": str(encoder.run),
            **recipes.facts(config),
            "training images": train.fingerprint(),
            "validation images": validation.fingerprint(),
            **also,
        }
    )


def _with(own: Config, data: DataConfig | None, options: EvaluateConfig | None) -> Config:
    """The run's config with other data and options."""
    data = data or own.data
    if data.source != own.data.source:
        # What names the run's own images or labels says nothing of another source's.
        if data.validation_source == own.data.validation_source:
            data = dataclasses.replace(data, validation_source="")
        if data.labels == own.data.labels:
            data = dataclasses.replace(data, labels="auto")
        if data.classes == own.data.classes:
            data = dataclasses.replace(data, classes=())
    return recipes.canonical(dataclasses.replace(own, data=data, evaluate=options or own.evaluate))


def _images(data: DataConfig) -> tuple:
    """What decides which images there are, and which are held out."""
    return (
        *(data.source, data.validation_source, data.validation_fraction, data.split_seed),
        *(data.min_side, data.max_pixels, data.image_key),
    )


def _ranked(own: Config) -> Source | None:
    """Images of the run's own data that ranked its checkpoints; None where they are gone."""
    try:
        validation = builders.load_data(own)[1]
    except UserError:
        return None
    return labelled_part(validation).take(halves(validation, own.train.seed)[0])


def _leakage_of_pretraining(own: Config, validation: Source) -> dict[str, Any]:
    learnt_from = "images that the encoder was pretrained on"
    try:
        return leakage.find_leakage(builders.load_data(own)[0], validation, learnt_from)
    except UserError as error:
        return {"words": f"leakage from the {learnt_from}: not looked for; {error}"}


def _save(path: pathlib.Path, figures: dict[str, Any], transfer: bool) -> None:
    """Puts figures into a finished run's results.json."""
    if not path.is_file():
        return
    known = json.loads(path.read_text())
    if transfer:
        sources = {**known.get("transfer", {}), figures["source"]: figures}
        write_json(path, {**known, "transfer": sources})
    elif known.get("step") == figures["step"]:
        write_json(path, _merged(known, figures, ("random_init", "pixels", "best", "last")))


def _merged(known: dict[str, Any], new: dict[str, Any], nested: tuple[str, ...]) -> dict[str, Any]:
    """New figures in place of old ones; those of other protocols stay."""
    deeper = {
        name: _merged(known.get(name, {}), value, nested)
        for name, value in new.items()
        if name in nested and known.get(name, {}).get("step") == value.get("step")
    }
    return {**known, **new, **deeper}
