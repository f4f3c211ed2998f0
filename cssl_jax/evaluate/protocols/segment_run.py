"""Segment protocol on a run's encoder: loads its data, evaluates baselines, builds the report."""

import dataclasses
import functools
from typing import Any

from cssl_jax.config import Config
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.segmentation_masks import MaskedSource, load_masks
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.encoders.encoder_hash import require_unchanged, variables_hash
from cssl_jax.evaluate.encoders.features import Model, encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.evaluate.encoders.untrained import describe_untrained
from cssl_jax.evaluate.protocols.segmentation import SegmentProbe, pixel_maps, stage_maps
from cssl_jax.evaluate.results import UNTRAINED, EncoderHash, Results, Selection
from cssl_jax.evaluate.scores import BaselineScores, SegmentScores
from cssl_jax.modalities.image import prepare


def load_masked_splits(config: Config) -> tuple[MaskedSource, MaskedSource]:
    """Training and validation split of images with masks; ``data.*`` options apply as usual."""
    data: Any = config.data
    source = load_masks(data.source, data)
    if data.validation_source:
        return source, load_masks(data.validation_source, data)
    seed = config.train.seed if data.split_seed is None else data.split_seed
    splits = sources.split(len(source), data.validation_fraction, seed)
    train, validation = (source.take(rows) for rows in splits)
    return train, validation


def segment(encoder: Encoder, config: Config, train: MaskedSource, test: MaskedSource) -> Results:
    """Evaluates a run's last checkpoint, the untrained encoder and raw pixels by segmentation.

    Args:
        encoder: Encoder of the run.
        config: Config of the run, with the evaluation options to use.
        train: Images and masks that the probe is fitted on.
        test: Images and masks that are evaluated.

    Returns:
        Metrics ``segment`` of ``SegmentProbe``, those of the two baselines, and ``stages``, the
        numbers of the stages from 1.

    Raises:
        UserError: The encoder does not take images with these channels, or has no such stage.
        RunError: The evaluation changed the encoder.
    """
    for source in (train, test):
        encoder.check_input(source.images)
    options = config.evaluate
    spec: Any = encoder.spec
    count = encoder.method.encoder.num_stages
    stages = options.segment_stages or tuple(range(1, count + 1))
    for stage in stages:
        if not 1 <= stage <= count:
            raise UserError(
                f"evaluate.segment_stages has {stage}; this encoder has the stages 1 to {count}"
            )
    hash_before = variables_hash(encoder.model)
    encoder_probe = SegmentProbe(
        stage_maps(encoder.method.encoder, functools.partial(prepare, spec=spec), stages),
        encoder.mesh,
        size=spec.size,
    )
    pixel_probe = SegmentProbe(pixel_maps(spec), encoder.mesh, size=spec.size)
    settings: dict[str, Any] = {
        "num_classes": max(train.num_classes, test.num_classes),
        "pixels": options.segment_pixels,
        "l2_values": options.l2_values or options.online_l2_values,
        "seed": config.train.seed,
    }
    models = encoder.model, encoder.untrained(train.images)
    trained, untrained = map(encoder_variables, models)

    def scores(probe: SegmentProbe, variables: Model) -> SegmentScores:
        return probe(variables, train, test, **settings)

    found = scores(encoder_probe, trained)
    baselines = {
        UNTRAINED: BaselineScores(
            segment=dataclasses.replace(scores(encoder_probe, untrained), confusion=None),
            description=describe_untrained(len(train)),
        ),
        "pixels": BaselineScores(
            segment=dataclasses.replace(scores(pixel_probe, {}), confusion=None)
        ),
    }
    require_unchanged(encoder.model, hash_before, "the encoder")
    description = (
        f"last checkpoint: step {encoder.step}, not selected on any data, reported on all "
        f"{len(test):,} validation images at {spec.size} x {spec.size} px; fitted on "
        f"{found.pixels:,} pixels of {len(train):,} images, stages {', '.join(map(str, stages))}"
    )
    leaking = leakage.find_leakage(train.images, test.images, "training images", encoder.modality)
    return Results(
        step=encoder.step,
        num_classes=settings["num_classes"],
        stages=list(stages),
        segment=found,
        baselines=baselines,
        selection=Selection(words=description),
        encoder_hash=EncoderHash(last=hash_before, unchanged=True),
        leakage={"train": leaking},
        key_order=(*Results.key_order, "stages", "segment", *baselines),
    )
