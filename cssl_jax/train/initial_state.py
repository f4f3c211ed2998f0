"""The state before the first step: from the seed, or from another run's weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax.config import Config
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.evaluator import variables_hash
from cssl_jax.evaluate.features import Model
from cssl_jax.evaluate.load import Encoder, load_encoder
from cssl_jax.evaluate.untrained import untrained_model
from cssl_jax.experiment import builders
from cssl_jax.experiment.experiment import Parts
from cssl_jax.runtime import spmd
from cssl_jax.step.state import TrainState

# Fields of the config that decide the parameters, of the encoder and of the head.
_ENCODER: tuple[str, ...] = ("encoder", "width", "stem")
_HEAD = ("projector_layers", "projector_hidden", "projector_norm")

Origin = dict[str, Any]


def first_state(config: Config, parts: Parts) -> tuple[TrainState, Origin]:
    """The state before the first step, on every device, and whose weights it starts from.

    From an earlier run (``train.init``) come the newest checkpoint's encoder and, where it has the
    same shapes, the head, each with its running statistics. Step and optimizer are new.

    Without one, a classifier that freezes stages starts from ``untrained_model``: what is frozen
    would otherwise pass its shortcuts on, normalised by no image's statistics.

    Returns:
        The state; and {"run", "step", "encoder_hash" (see ``variables_hash``), "modules" (names of
        what was taken over)}, ready for JSON; empty where all is drawn from the seed.

    Raises:
        UserError: The run's encoder is another one than this config's, or takes other images.
    """
    state = builders.init_state(parts.method, parts.optimizer, parts.spec, config.train.seed)
    if not config.train.init:
        if parts.method.needs_statistics:
            untrained = untrained_of(config, parts)(parts.train)
            state = state.replace(**jax.device_get(untrained))
        return spmd.replicate(state, parts.mesh), {}
    source = load_encoder(config.train.init)
    _check(config, parts, source)
    model = parts.method.adopt(state.model, jax.device_get(source.model))
    taken = [name for name, of in model["params"].items() if of is not state.params[name]]
    if config.train.micro_batch_norm == "frozen" and len(taken) < len(model["params"]):
        raise UserError(
            f"train.micro_batch_norm is 'frozen' and the projector of train.init {source.run} has "
            "other shapes: random weights have no running statistics; give the model.projector_* "
            "fields of that run, or leave micro_batch_norm out"
        )
    origin = {
        "run": str(source.run),
        "step": source.step,
        "encoder_hash": variables_hash(source.model),
        "modules": taken,
    }
    return spmd.replicate(state.replace(**model), parts.mesh), origin


def untrained_of(config: Config, parts: Parts) -> Callable[[Source], Model]:
    """Images -> the untrained model that this run is compared with, see ``untrained_model``."""
    return functools.partial(
        untrained_model,
        method=parts.method,
        spec=parts.spec,
        mesh=parts.mesh,
        seed=config.train.seed,
        batch_size=config.evaluate.batch_size,
    )


def _check(config: Config, parts: Parts, source: Encoder) -> None:
    """Raises UserError, by the field that differs, where the weights do not fit."""
    names = _ENCODER
    if "projector" in parts.method.pretrained_modules:
        names += _HEAD
        if "projector" not in source.model["params"]:
            raise UserError(
                f"train.init {source.run} has no projector to take classifier.head_layers "
                f"{config.classifier.head_layers} from; give a pretrained run, or 0"
            )
    for name in names:
        mine, its = getattr(config.model, name), getattr(source.config.model, name)
        if mine != its:
            raise UserError(
                f"model.{name} is {mine!r}, in train.init {source.run} {its!r}; give the model "
                "that was pretrained"
            )
    if source.spec.channels != parts.spec.channels:
        raise UserError(
            f"the images have {parts.spec.channels} channels, those of train.init {source.run} "
            f"{source.spec.channels}; see data.channels"
        )
