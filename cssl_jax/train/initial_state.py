"""State before the first step: random weights, or those of another run, and a teacher's."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.encoders.untrained import untrained_model
from cssl_jax.experiment import train_state
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.methods.registry import method_entry
from cssl_jax.runtime import spmd
from cssl_jax.step.state import TrainState

# Config fields that decide the shapes of the encoder's and of the projection head's parameters.
_ENCODER: tuple[str, ...] = ("encoder", "width", "stem", "variant")
_HEAD = ("projector_layers", "projector_hidden", "projector_norm")

Origin = dict[str, Any]


def first_state(experiment: Experiment) -> tuple[TrainState, Origin]:
    """Builds the state before the first step, on every device.

    With ``train.init`` the encoder of that run's newest checkpoint, or of that file of weights, is
    copied and, if it has the same shapes, the projection head, each with its running statistics.
    Step and optimizer start from scratch.

    Without it, a classifier with frozen stages starts from ``untrained_model``: at initialisation
    every residual branch is zero and the running statistics are those of no image, so that frozen
    stages would only pass their shortcuts on.

    Returns:
        (state, origin). The origin is JSON: {"run", "step", "encoder_hash" (see
        ``variables_hash``), "modules" (names of the copied modules)}, of a file also "file",
        "sha256", "branch" and "preprocessing", and "note" if that run's images were normalised
        otherwise; empty for random weights.

    Raises:
        UserError: The encoder or the images of that run differ from this config's.
    """
    config = experiment.config
    state = train_state.init_state(
        experiment.method, experiment.optimizer, experiment.spec, config.train.seed
    )
    if not config.train.init:
        if experiment.method.needs_statistics:
            untrained = untrained_of(experiment)(experiment.train)
            state = train_state.with_model(experiment.method, state, jax.device_get(untrained))
        return spmd.replicate(state, experiment.mesh), {}
    source = load_encoder(config.train.init)
    _check(experiment, source)
    model = experiment.method.adopt(state.model, jax.device_get(source.model))
    # ``adopt`` returns the given object for a module that it does not copy.
    copied = [name for name, new in model["params"].items() if new is not state.params[name]]
    if config.train.micro_batch_norm == "frozen" and len(copied) < len(model["params"]):
        raise UserError(
            f"train.micro_batch_norm is 'frozen' and the projector of train.init {source.run} has "
            "other shapes: random weights have no running statistics; give the model.projector_* "
            "fields of that run, or omit micro_batch_norm"
        )
    origin = {
        "run": str(source.run),
        "step": source.step,
        "encoder_hash": variables_hash(source.model),
        "modules": copied,
        **source.meta.get("imported", {}),
    }
    if note := _note(experiment, source):
        origin["note"] = note
    state = train_state.with_model(experiment.method, state, model)
    return spmd.replicate(state, experiment.mesh), origin


def with_teacher(experiment: Experiment, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """A run's first state with the newest weights of its teacher, on every device.

    Returns:
        (state, origin of the teacher). The origin is JSON: {"run", "step", "encoder_hash"}.

    Raises:
        UserError: The teacher was trained on other classes or on inputs of another form.
    """
    source = load_encoder(method_entry(experiment.config.method.name).teacher(experiment.config))
    _check_teacher(experiment, source)
    variables = spmd.replicate(jax.device_get(source.model), experiment.mesh)
    origin = {
        "run": str(source.run),
        "step": source.step,
        "encoder_hash": variables_hash(source.model),
    }
    return train_state.with_teacher(state, variables), origin


def untrained_of(experiment: Experiment) -> Callable[[Source], Model]:
    """Function from training images to this run's untrained baseline, see ``untrained_model``."""
    return functools.partial(
        untrained_model,
        method=experiment.method,
        spec=experiment.spec,
        mesh=experiment.mesh,
        seed=experiment.config.train.seed,
        batch_size=experiment.config.evaluate.batch_size,
    )


def _note(experiment: Experiment, source: Encoder) -> str:
    """Note if the weights were trained on examples that were normalised otherwise; else ""."""
    # Options of the section data; a modality without them takes the statistics of that run.
    fields = [name for name in ("mean", "std") if hasattr(experiment.config.data, name)]
    fields = fields or ["normalize"]
    theirs, own = (
        [_rounded(getattr(spec, name, ())) for name in fields]
        for spec in (source.spec, experiment.spec)
    )
    if theirs == own:
        return ""
    options = " ".join(
        f"--data.{name} {_as_words(getattr(source.spec, name))}"
        for name in fields
        if hasattr(source.spec, name)
    )
    return (
        f"the weights of {source.run.name} were trained on {source.modality.noun} normalised "
        f"otherwise than here: for the same input give {options}"
    )


def _rounded(value: Any) -> Any:
    return value if isinstance(value, str) else np.round(value, 3).tolist()


def _as_words(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(f"{x:.4g}" for x in value)


def _check(experiment: Experiment, source: Encoder) -> None:
    """Raises UserError, with the field that differs, if the weights of ``source`` do not fit."""
    config, names = experiment.config, _ENCODER
    if "projector" in experiment.method.pretrained_modules:
        names += _HEAD
        if "projector" not in source.model["params"]:
            raise UserError(
                f"train.init {source.run} has no projector to take classifier.head_layers "
                f"{config.classifier.head_layers} from; give a pretrained run, or 0"
            )
    for name in names:
        own, pretrained = getattr(config.model, name), getattr(source.config.model, name)
        if own != pretrained:
            raise UserError(
                f"model.{name} is {own!r}, but {pretrained!r} in train.init {source.run}; give "
                f"--model.{name.replace('_', '-')} {pretrained}"
            )
    kinds = source.config.data.modality, config.data.modality
    if kinds[0] != kinds[1]:
        raise UserError(
            f"data.modality is {kinds[1]!r}, but {kinds[0]!r} in train.init {source.run}; give a "
            "run of the same modality"
        )
    if misfit := source.modality.misfit(experiment.train, source.spec):
        raise UserError(f"train.init {source.run}: {misfit}; see data.channels")


def _check_teacher(experiment: Experiment, source: Encoder) -> None:
    """Raises UserError if the teacher cannot read the views, or names classes otherwise."""
    theirs, own = dataclasses.asdict(source.spec), dataclasses.asdict(experiment.spec)
    if different := sorted(name for name in own if own[name] != theirs.get(name)):
        found = "; ".join(f"{name} {theirs.get(name)}, here {own[name]}" for name in different)
        raise UserError(
            f"method.teacher {source.run} was trained on other inputs: {found}; both see the same "
            "views, so give the data.* options of that run"
        )
    classes, known = list(experiment.train.classes), source.meta.get("classes", [])
    if classes and known and classes != known:
        raise UserError(
            f"method.teacher {source.run} numbers its classes {known}, and "
            f"{experiment.train.name} {classes}; give --data.classes in the teacher's order"
        )
