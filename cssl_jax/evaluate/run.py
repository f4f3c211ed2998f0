"""Evaluates a run's checkpoints on the run's own data or on other data."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax import recipes
from cssl_jax.augment.view_group import first_group, number_groups
from cssl_jax.config import Config, DataConfig, EvaluateConfig
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.segmentation_masks import MaskedSource
from cssl_jax.data.sources.text_pairs import Pairs, open_pairs
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.by_group import evaluate_groups
from cssl_jax.evaluate.encoders.last_blocks import describe_blocks
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.evaluator import Checkpoint, Evaluator
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.protocols.leave_group_out import check_groups
from cssl_jax.evaluate.protocols.segment_run import load_masked_splits, segment
from cssl_jax.evaluate.ranking_split import labelled_examples, split_ranking_reporting
from cssl_jax.evaluate.results import Leakage, Results, SplitSizes
from cssl_jax.evaluate.text_similarity import evaluate_pairs, require_text, sentences_of
from cssl_jax.experiment import data_splits, input_pipeline
from cssl_jax.files import existing_run, write_json
from cssl_jax.modalities.base import require_images
from cssl_jax.runtime import multihost, process


def evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None = None,
    *,
    data: DataConfig | None = None,
    options: EvaluateConfig | None = None,
) -> Results:
    """Evaluates a run's last and best checkpoint, on the run's own data or on other data.

    The metrics are written to the run's results.json, if the run has finished. Metrics on its own
    data replace earlier ones of the same step. Metrics on other data are stored under "transfer" by
    the name of the source.

    Args:
        run: Folder of the run.
        protocol: Name of a protocol in ``protocols.PROTOCOLS``, or several names; None: all of
            them. "segment" must be requested alone and needs images with masks, see
            ``data.sources.segmentation_masks.load_masks``. "groups" must be requested alone and
            needs examples with groups; it holds out one group of the source after another. "sts"
            must be requested alone and needs pairs of sentences with scores, see
            ``data.sources.text_pairs.open_pairs``.
        data: Options of the images to fit and report on; None: the run's own data. If the source
            differs from the run's, the run's own validation_source, labels and classes do not
            apply.
        options: Options of the protocols; None: those of the run.

    Returns:
        Metrics of the protocols for the last and the best checkpoint and for the baselines, with
        the context of the evaluation: ``results.linear.top1``, or as a mapping
        ``results["linear"]["top1"]``. ``results.to_json()`` is a dictionary.

    Raises:
        UserError: A protocol, the data or an option is invalid.
        RunError: A protocol changed the encoder.
    """
    process.join_processes("evaluate")
    with multihost.raise_if_peer_lost():
        return _evaluate_run(run, protocol, data, options)


def _evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None,
    data: DataConfig | None,
    options: EvaluateConfig | None,
) -> Results:
    names = protocols.PROTOCOLS if protocol is None else protocol
    names = (names,) if isinstance(names, str) else tuple(names)
    protocols.check_names(names)  # before the run is opened, which takes seconds
    multihost.run_on_all(lambda: existing_run(run))
    encoder = load_encoder(run)
    run_config = encoder.config
    process.set_compile_cache(run_config.runtime.compile_cache)
    if protocols.SEGMENT in names:
        return _segment(encoder, data, options)
    if protocols.GROUPS in names:
        return _by_group(encoder, data, options)
    if protocols.STS in names:
        return _sts(encoder, data, options)

    def prepare() -> tuple[Config, Source, Source, Evaluator]:
        config = _replace_data(run_config, data, options)
        train, validation = data_splits.load_data(config)
        for split in (train, validation):
            encoder.check_input(split)
        groups = number_groups(
            input_pipeline.own_views(encoder.method), size=encoder.spec.size, policy=config.augment
        )
        evaluator = Evaluator(
            config,
            encoder.method.encoder,
            encoder.spec,
            train,
            validation,
            encoder.mesh,
            first_group(groups),
        )
        if protocol is not None and not evaluator.labelled:
            raise UserError(
                f"protocol {names[0]!r} needs labels on both splits; training "
                f"{encoder.modality.noun} have "
                f"{'some' if train.labels is not None else 'none'}, validation "
                f"{encoder.modality.noun} "
                f"{'some' if validation.labels is not None else 'none'}"
            )
        return config, train, validation, evaluator

    config, train, validation, evaluator = multihost.run_on_all(prepare)
    _require_same(encoder, config, train, validation, {"protocols": names})
    last = Checkpoint(encoder.step, encoder.model)
    best = load_encoder(run, checkpoint="best")
    transfer = config.data.identity != run_config.data.identity
    results = evaluator.report(
        last,
        last if best.step == last.step else Checkpoint(best.step, best.model),
        encoder.untrained,
        names,
        chose_best=not transfer or validation.fingerprint() == encoder.data["validation"],
        ranked=_ranking_images(run_config) if transfer else None,
    )
    if transfer:
        results = _with_pretraining_leakage(results, encoder, validation)
    results = dataclasses.replace(
        _with_data(results, config, len(train), len(validation)),
        notes=list(
            dict.fromkeys((*train.notes, *validation.notes, *describe_blocks(config.evaluate)))
        ),
    )
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", results, transfer))
    return results


def _segment(encoder: Encoder, data: DataConfig | None, options: EvaluateConfig | None) -> Results:
    """Evaluates an encoder by the segment protocol and saves its metrics as "transfer"."""
    require_images(encoder.modality, "protocol 'segment'")

    def prepare() -> tuple[Config, MaskedSource, MaskedSource]:
        config = _replace_data(encoder.config, data, options)
        return config, *load_masked_splits(config)

    config, train, validation = multihost.run_on_all(prepare)
    classes = [train.num_classes, validation.num_classes]
    properties = {"protocols": (protocols.SEGMENT,), "classes of masks": classes}
    _require_same(encoder, config, train.images, validation.images, properties)
    results = segment(encoder, config, train, validation)
    results = _with_pretraining_leakage(results, encoder, validation.images)
    results = _with_data(results, config, len(train), len(validation))
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", results, transfer=True))
    return results


def _with_data(results: Results, config: Config, train: int, validation: int) -> Results:
    """The results with the data of the evaluation: their sources, and the sizes of the splits."""
    return dataclasses.replace(
        results,
        source=config.data.source,
        validation_source=config.data.validation_source or "held out of source",
        split=SplitSizes(train=train, validation=validation),
    )


def _by_group(encoder: Encoder, data: DataConfig | None, options: EvaluateConfig | None) -> Results:
    """Evaluates an encoder with one group held out after another; saves its metrics."""

    def prepare() -> tuple[Config, Source, np.ndarray]:
        config = _replace_data(encoder.config, data, options)
        source = labelled_examples(data_splits.load_whole(config))
        encoder.check_input(source)
        return config, source, check_groups(source)

    config, source, groups = multihost.run_on_all(prepare)
    _require_same(encoder, config, source, source, {"protocols": (protocols.GROUPS,)})
    found = evaluate_groups(encoder, config, source, groups)
    results = dataclasses.replace(
        _with_data(found, config, len(source), len(source)),
        validation_source="one group after another",
        notes=list(source.notes),
    )
    transfer = config.data.identity != encoder.config.data.identity
    # In the results of the run's own data the context is that of the other protocols.
    saved = results if transfer else found
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", saved, transfer))
    return results


def _sts(encoder: Encoder, data: DataConfig | None, options: EvaluateConfig | None) -> Results:
    """Evaluates an encoder on pairs of sentences and saves its metrics as "transfer"."""
    require_text(encoder)

    def prepare() -> tuple[Config, Pairs, Source | None, str]:
        config = _replace_data(encoder.config, data, options)
        pairs = open_pairs(config.data.source)
        try:
            return config, pairs, data_splits.load_data(encoder.config)[0], ""
        except UserError as error:  # such as data that were moved; the evaluation itself is valid
            return config, pairs, None, f"no TF-IDF: {error}"

    config, pairs, corpus, note = multihost.run_on_all(prepare)
    sentences = sentences_of(pairs)
    _require_same(encoder, config, sentences, sentences, {"protocols": (protocols.STS,)})
    found = Results.from_json(evaluate_pairs(encoder, config, pairs, corpus))
    results = _with_pretraining_leakage(found, encoder, sentences)
    results = dataclasses.replace(
        _with_data(results, config, len(corpus or ()), len(pairs.score)),
        validation_source=f"pairs of {config.data.source}",
        notes=[note] if note else [],
    )
    multihost.run_on_primary(lambda: _save(encoder.run / "results.json", results, transfer=True))
    return results


def _require_same(
    encoder: Encoder, config: Config, train: Source, validation: Source, properties: dict[str, Any]
) -> None:
    """Checks that all processes evaluate the same run, config and images; a collective call.

    Args:
        encoder: Encoder of the run.
        config: Config of the evaluation.
        train: Training images.
        validation: Validation images.
        properties: Further properties by name that must be identical on all processes.
    """
    multihost.require_same(
        {
            "run": str(encoder.run),
            **recipes.facts(config),
            "training images": train.fingerprint(),
            "validation images": validation.fingerprint(),
            **properties,
        }
    )


def _replace_data(
    run_config: Config, data: DataConfig | None, options: EvaluateConfig | None
) -> Config:
    """The run's config with other data and evaluation options; None keeps those of the run."""
    data = data or run_config.data
    if data.source != run_config.data.source:
        # Options that name the run's own images, labels or classes do not apply to another source.
        if data.validation_source == run_config.data.validation_source:
            data = dataclasses.replace(data, validation_source="")
        if data.labels == run_config.data.labels:
            data = dataclasses.replace(data, labels="auto")
        if data.classes == run_config.data.classes:
            data = dataclasses.replace(data, classes=())
    evaluate = options or run_config.evaluate
    return recipes.canonical(dataclasses.replace(run_config, data=data, evaluate=evaluate))


def _ranking_images(run_config: Config) -> Source | None:
    """Images of the run's own data that ranked its checkpoints; None if the data are missing."""
    try:
        validation = data_splits.load_data(run_config)[1]
    except UserError:
        return None
    return labelled_examples(validation).take(
        split_ranking_reporting(validation, run_config.train.seed)[0]
    )


def _with_pretraining_leakage(results: Results, encoder: Encoder, validation: Source) -> Results:
    """Adds leakage from the run's training images into other validation images."""
    learnt_from = f"{encoder.modality.noun} that the encoder was pretrained on"
    try:
        if encoder.is_imported:
            raise UserError("the weights were imported, and their training data are not known")
        train = data_splits.load_data(encoder.config)[0]
        found = leakage.find_leakage(train, validation, learnt_from, encoder.modality)
    except UserError as error:  # such as data that were moved; the evaluation itself is valid
        found = Leakage(words=f"leakage from the {learnt_from}: not checked; {error}")
    leaking = {**(results.leakage or {}), "pretraining": found}
    return dataclasses.replace(results, leakage=leaking)


def _save(path: pathlib.Path, results: Results, transfer: bool) -> None:
    """Writes metrics into the results.json of a finished run; without that file does nothing."""
    if not path.is_file():
        return
    saved = json.loads(path.read_text())
    if transfer:
        sources = {**saved.get("transfer", {}), results.source: results.to_json()}
        write_json(path, {**saved, "transfer": sources})
    elif saved.get("step") == results.step:
        nested = (*results.labels, "best", "last")
        write_json(path, _merge(saved, results.to_json(), nested))


def _merge(saved: dict[str, Any], new: dict[str, Any], nested: tuple[str, ...]) -> dict[str, Any]:
    """Saved metrics replaced by new ones; metrics of other protocols stay.

    Args:
        saved: Metrics in the file.
        new: Metrics that replace those of the same name.
        nested: Names of entries that are merged recursively if they are of the same step.
    """
    merged = {
        name: _merge(saved.get(name, {}), value, nested)
        for name, value in new.items()
        if name in nested and saved.get(name, {}).get("step") == value.get("step")
    }
    return {**saved, **new, **merged}
