"""State that a training run starts from: its newest checkpoint, or its first state."""

import dataclasses
import pathlib
from typing import Any

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.errors import UserError
from cssl_jax.experiment import data_splits, train_state
from cssl_jax.experiment.experiment import KERNELS, Experiment
from cssl_jax.experiment.train_state import TEACHER
from cssl_jax.train.hooks import Run
from cssl_jax.train.initial_state import first_state, with_teacher
from cssl_jax.train.logging.console import say
from cssl_jax.train.trainer import UNSCORED

ORIGIN = "init"  # key in a checkpoint's meta and in results.json: run of the initial weights


def start(folder: pathlib.Path, experiment: Experiment, checkpoints: Checkpoints) -> Run:
    """The run at its newest checkpoint, or before its first step if it has none.

    Records the origin of the weights and the kernels of the views in ``experiment.meta``.

    Raises:
        UserError: The data or the user's code have changed since the run began, or the weights of
            ``train.init`` do not fit.
    """
    if not checkpoints.latest:
        state, origin = first_state(experiment)
        experiment.meta.update({ORIGIN: origin} if origin else {})
        if experiment.method.teacher is not None:
            state, experiment.meta[TEACHER] = with_teacher(experiment, state)
        return Run(folder, experiment, state)
    shapes = train_state.state_shapes(experiment.method, experiment.optimizer, experiment.spec)
    state, meta = checkpoints.resume(shapes, experiment.mesh)
    _check_unchanged(experiment, meta)
    experiment.meta.update({name: meta[name] for name in (ORIGIN, TEACHER) if name in meta})
    experiment = with_kernels_of(experiment, checkpoints)
    return Run(folder, experiment, state, int(state.step), meta.get(UNSCORED, False))


def _check_unchanged(experiment: Experiment, meta: dict[str, Any]) -> None:
    """Raises UserError if the examples or the user's code differ from those of a checkpoint."""
    noun = data_splits.modality_of(experiment.config).noun
    for split, fingerprint in experiment.meta["data"].items():
        if meta["data"][split] != fingerprint:
            raise UserError(
                f"the {split} {noun} have changed since the run began: {meta['data'][split]}, now "
                f"{fingerprint}; restore them, or start from scratch in another --workdir"
            )
    for field, digest in experiment.meta["code"].items():
        if meta.get("code", {}).get(field) != digest:
            raise UserError(
                f"the file of {field} has changed since the run began; restore it, or start from "
                "scratch in another --workdir"
            )


def with_kernels_of(experiment: Experiment, checkpoints: Checkpoints) -> Experiment:
    """The experiment with the host kernels that the run began with; others round differently."""
    began = checkpoints.read_meta().get(KERNELS, "jax")
    pipeline = experiment.pipeline.with_kernels(began)
    if pipeline.kernels != began:
        say(
            "views       the run began with OpenCV, which is not installed here: from now on they "
            "differ in rounding; pip install opencv-python-headless simplejpeg"
        )
    experiment.meta[KERNELS] = pipeline.kernels
    return dataclasses.replace(experiment, pipeline=pipeline)
