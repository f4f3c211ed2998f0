"""The untrained encoder that a trained one is compared with: live branches, real statistics."""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.features import Model
from cssl_jax.evaluate.norm_statistics import reestimate
from cssl_jax.experiment import builders
from cssl_jax.runtime import spmd


def untrained_model(
    images: Source, *, method: Any, spec: InputSpec, mesh: Mesh, seed: int, batch_size: int
) -> Model:
    """An encoder of the run's architecture and seed that no gradient has changed.

    The state before the first step is no fair baseline: each residual block's last BatchNorm scale
    is 0, so that every block passes its shortcut on, and the running statistics are 0 and 1. Here
    those scales are 1 and the statistics are those of the training images, in one pass.

    Args:
        images: Training images; labels are not read.
        method: Method whose encoder it is.
        spec: Size and normalisation of the encoder's input.
        mesh: Devices; they do not change the result.
        seed: Seed of the run.
        batch_size: Images normalised together while statistics are estimated.

    Returns:
        {"params", "model_state"}, replicated over the mesh.
    """
    live = dataclasses.replace(method, encoder=method.encoder.with_live_branches())
    state = builders.init_state(live, optax.identity(), spec, seed)
    modules = {"encoder": live.encoder}
    if getattr(live, "head", None) is not None:  # of a classifier, which sees the head's output
        modules["head"] = live.head
    return reestimate(
        modules,
        spmd.replicate(state.model, mesh),
        images,
        spec,
        mesh,
        batch_size=batch_size,
        seed=seed,
    )


def describe(images: int) -> str:
    """One line for results.json and reports: what the untrained encoder is."""
    return (
        "untrained encoder: same architecture and seed, residual branches live (last BatchNorm "
        f"scale 1), BatchNorm statistics of {images:,} training images"
    )
