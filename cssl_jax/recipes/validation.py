"""What makes a config's values valid."""

import math
import operator
from typing import Any

from cssl_jax.config.config import Config
from cssl_jax.config.model import ENCODER_OPTIONS, ModelConfig
from cssl_jax.config.ranges import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Range,
)
from cssl_jax.errors import UserError
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.base import require_images
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.models.registry import ENCODERS, encoder_entry, encoders_for
from cssl_jax.optim.registry import optimizer_entry
from cssl_jax.recipes.sections import check_section
from cssl_jax.registries import is_file_name

# (fields, allowed values); None and "auto" are choices of their own.
_RANGES: tuple[tuple[tuple[str, ...], Range], ...] = (
    (
        (
            *("train.batch_size", "train.epochs", "train.log_every", "train.keep"),
            *("train.nonfinite_limit", "model.width", "model.patch", "model.projector_dim"),
            *("optimizer.trust_coefficient", "optimizer.clip_norm", "optimizer.clip_tensor_norm"),
            *("evaluate.knn_k", "evaluate.knn_temperature", "evaluate.batch_size"),
            *("evaluate.probe_seeds", "evaluate.knn_ks", "evaluate.shots", "evaluate.recall_at"),
            *("evaluate.segment_pixels", "evaluate.segment_stages"),
        ),
        POSITIVE,
    ),
    (
        (
            *("model.norm_group", "model.projector_hidden", "model.heads", "model.layer_scale"),
            *("adapt.coral_weight", "adapt.dann_weight", "adapt.dann_hidden"),
            *("optimizer.learning_rate", "optimizer.warmup_epochs", "optimizer.weight_decay"),
            *("optimizer.trust_eps", "optimizer.weight_decay_end"),
            *("train.micro_batch", "train.evaluate_every", "train.checkpoint_every"),
            *("train.checkpoint_steps", "train.checkpoint_minutes", "train.check_replicas_every"),
            *("evaluate.train_limit", "runtime.devices"),
            *("evaluate.l2_values", "evaluate.online_l2_values"),
        ),
        NOT_NEGATIVE,
    ),
    (
        (
            *("optimizer.momentum", "optimizer.b1", "optimizer.b2"),
            *("classifier.dropout", "classifier.label_smoothing"),
            *("model.dropout", "model.drop_path"),
        ),
        BELOW_ONE,
    ),
    (("classifier.label_fraction", "classifier.layer_decay", "optimizer.layer_decay"), SHARE),
    (("evaluate.draws",), Range(lambda value: value >= 2, "2 or more")),  # an interval needs two
    (("train.seed",), SEED),
)


def validate(config: Config) -> Config:
    """Returns the config, or raises UserError at the first value that cannot work.

    Example:
        >>> from cssl_jax.config import Config
        >>> validate(Config()) == Config()
        True
    """
    check_section(config)
    _check_ranges(config)
    _check_model(config)
    _check_encoder(config)
    _check_training(config)
    method_entry(config.method.name).check(config)
    if not is_file_name(config.optimizer.name):  # a user's file runs where it is needed, to train
        optimizer_entry(config.optimizer.name)
    _check_data(config)
    return config


def _check_ranges(config: Config) -> None:
    for names, allowed in _RANGES:
        for name in names:
            _check_range(name, operator.attrgetter(name)(config), allowed)
    for section in ("method", "data"):
        values = getattr(config, section)
        for name, allowed in values.ranges.items():
            _check_range(f"{section}.{name}", getattr(values, name), allowed)


def _check_range(name: str, value: Any, allowed: Range) -> None:
    for one in value if isinstance(value, tuple) else (value,):
        if one is not None and one != "auto" and not allowed.fits(one):
            wanted = allowed.wanted if abs(one) < math.inf else "a finite number"
            raise UserError(f"{name} is {value}; give {wanted}")


def _check_model(config: Config) -> None:
    width, layers = config.model.width, config.model.projector_layers
    if width > 1024:
        raise UserError(f"model.width is {width}; the widest in use is 4")
    if round(64 * width) < 1:  # channels of the stem
        raise UserError(
            f"model.width is {width}, which leaves no channel; the smallest useful width is 1/64 "
            "(0.015625)"
        )
    if layers not in (1, 2, 3):
        raise UserError(f"model.projector_layers is {layers}; give 1, 2 or 3")


def _check_encoder(config: Config) -> None:
    """Refuses an encoder of other inputs before any data is read."""
    name, modality = config.model.encoder, config.data.modality
    if is_file_name(name) or name not in ENCODERS:  # loaded, or refused, where it is built
        return
    takes, fitting = encoder_entry(name).modalities, encoders_for(modality)
    if takes and fitting and modality not in takes:
        first, *others = fitting
        raise UserError(
            f"model.encoder {name!r} takes examples of modality {' or '.join(takes)}, and "
            f"data.modality is {modality!r}; give --model.encoder {first} (or "
            f"{', '.join(others)}), or --data.modality {takes[0]}"
        )
    options, default = encoder_entry(name).options, ModelConfig()
    for field in ENCODER_OPTIONS:
        value = getattr(config.model, field)
        if field not in options and value != getattr(default, field):
            having = [other for other in fitting if field in encoder_entry(other).options]
            raise UserError(
                f"model.{field} is {value}, and encoder {name!r} has no such option; omit it"
                + (f", or give --model.encoder {' or '.join(having)}" if having else "")
            )


def _check_training(config: Config) -> None:
    train, optimizer = config.train, config.optimizer
    if train.batch_size < 2:
        raise UserError("train.batch_size is 1; a contrastive loss needs other examples, give 2+")
    if train.micro_batch_norm == "frozen" and not train.micro_batch:
        raise UserError(
            "train.micro_batch_norm is 'frozen' and train.micro_batch 0; give the micro-batch, "
            f"e.g. --train.micro-batch {train.batch_size} for the whole batch"
        )
    if train.micro_batch_norm == "frozen" and not train.init:
        raise UserError(
            "train.micro_batch_norm is 'frozen' and train.init empty: random weights have no "
            "running statistics; give --train.init a run, or leave micro_batch_norm out"
        )
    if optimizer.warmup_epochs > train.epochs:
        raise UserError(
            f"optimizer.warmup_epochs {optimizer.warmup_epochs} exceeds train.epochs "
            f"{train.epochs}; shorten the warm-up, e.g. --optimizer.warmup-epochs "
            f"{train.epochs / 10:g}"
        )


def _check_data(config: Config) -> None:
    modality = modality_entry(config.data.modality)
    modality.check(config.data, config.augment)
    if config.train.record_views:
        require_images(modality, "train.record_views")
    names = config.data.classes
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"data.classes names {twice[0]!r} twice; give every class one name")
    if config.data.validation_fraction == 0 and not config.data.validation_source:
        raise UserError(
            "data.validation_fraction is 0, nothing would be left to measure on; give "
            "--data.validation-source or a fraction such as 0.1"
        )
