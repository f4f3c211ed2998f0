"""The segment protocol on an encoder: its data, its floors, its report."""

from typing import Any

from cssl_jax.config import Config
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.masks import MaskedSource, load_masks
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.evaluator import variables_hash
from cssl_jax.evaluate.features import encoder_variables
from cssl_jax.evaluate.load import Encoder
from cssl_jax.evaluate.protocols.segmentation import SegmentProbe, pixel_maps, stage_maps
from cssl_jax.evaluate.untrained import describe


def load_masked_parts(config: Config) -> tuple[MaskedSource, MaskedSource]:
    """(training part, validation part) of images with masks, by ``data.*`` as of other images."""
    data = config.data
    source = load_masks(data.source, data)
    if data.validation_source:
        return source, load_masks(data.validation_source, data)
    seed = config.train.seed if data.split_seed is None else data.split_seed
    parts = sources.split(len(source), data.validation_fraction, seed)
    train, held_out = (source.take(part) for part in parts)
    return train, held_out


def segment(
    encoder: Encoder, config: Config, train: MaskedSource, test: MaskedSource
) -> dict[str, Any]:
    """Figures of a run's last checkpoint beside the untrained encoder and raw pixels.

    Returns:
        {"step", "num_classes", "segment": as ``SegmentProbe`` gives it, "random_init" and "pixels":
        {"segment"}, "stages" (from 1), "selection", "encoder_hash", "leakage"}.

    Raises:
        UserError: The images or a stage are none that the encoder has.
        RunError: The encoder is not what it was.
    """
    for part in (train, test):
        encoder.check_channels(part.images)
    spec, options = encoder.spec, config.evaluate
    count = encoder.method.encoder.num_stages
    stages = options.segment_stages or tuple(range(1, count + 1))
    for stage in stages:
        if not 1 <= stage <= count:
            raise UserError(
                f"evaluate.segment_stages has {stage}; this encoder has the stages 1 to {count}"
            )
    before = variables_hash(encoder.model)
    dense = SegmentProbe(
        stage_maps(encoder.method.encoder, spec, stages), encoder.mesh, size=spec.size
    )
    raw = SegmentProbe(pixel_maps(spec), encoder.mesh, size=spec.size)
    settings: dict[str, Any] = {
        "num_classes": max(train.num_classes, test.num_classes),
        "pixels": options.segment_pixels,
        "l2_values": options.l2_values or options.online_l2_values,
        "seed": config.train.seed,
    }
    models = encoder.model, encoder.untrained(train.images)
    variables, untrained = map(encoder_variables, models)
    results = {
        "step": encoder.step,
        "num_classes": settings["num_classes"],
        "stages": list(stages),
        "segment": dense(variables, train, test, **settings),
        "random_init": {
            "segment": _baseline(dense(untrained, train, test, **settings)),
            "description": describe(len(train)),
        },
        "pixels": {"segment": _baseline(raw({}, train, test, **settings))},
    }
    if variables_hash(encoder.model) != before:
        raise RunError(f"the segment protocol changed the encoder (SHA-256 {before[:12]})")
    words = (
        f"last checkpoint: step {encoder.step}, chosen by nothing, reported on all {len(test):,} "
        f"validation images at {spec.size} x {spec.size} px; fitted on "
        f"{results['segment']['pixels']:,} pixels of {len(train):,} images, stages "
        f"{', '.join(map(str, stages))}"
    )
    return {
        **results,
        "selection": {"words": words},
        "encoder_hash": {"last": before, "unchanged": True},
        "leakage": {"train": leakage.find_leakage(train.images, test.images, "training images")},
    }


def _baseline(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "confusion"}
