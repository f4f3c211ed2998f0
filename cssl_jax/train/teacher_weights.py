"""Weights of the teacher in the first state of a run."""

import dataclasses
from typing import Any

import jax

from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.experiment import train_state
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.methods.registry import method_entry
from cssl_jax.runtime import spmd
from cssl_jax.step.state import TrainState


def with_teacher(experiment: Experiment, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """A run's first state with the newest weights of its teacher, on every device.

    Returns:
        (state, origin of the teacher). The origin is JSON: {"run", "step", "encoder_hash"}.

    Raises:
        UserError: The teacher was trained on other classes or on inputs of another form.
    """
    source = load_encoder(method_entry(experiment.config.method.name).teacher(experiment.config))
    _check(experiment, source)
    variables = spmd.replicate(jax.device_get(source.model), experiment.mesh)
    origin = {
        "run": str(source.run),
        "step": source.step,
        "encoder_hash": variables_hash(source.model),
    }
    return train_state.with_teacher(state, variables), origin


def _check(experiment: Experiment, source: Encoder) -> None:
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
