"""Untrained baseline encoder: active residual branches, BatchNorm statistics of real images."""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.encoders.norm_statistics import reestimate_norm_statistics
from cssl_jax.experiment import train_state
from cssl_jax.runtime import spmd


def untrained_model(
    images: Source, *, method: Any, spec: InputSpec, mesh: Mesh, seed: int, batch_size: int
) -> Model:
    """Builds the untrained baseline: an encoder with the run's architecture and initial weights.

    The state before the first step is no fair baseline. The last BatchNorm scale of each residual
    block is 0, so that every block passes on only its shortcut. The running statistics are mean 0
    and variance 1. Here these scales are 1, and the statistics are estimated in one pass over the
    training images.

    Args:
        images: Training images; labels are not read.
        method: Method of the run, whose encoder (and head, if any) is initialised.
        spec: Size and normalisation of the encoder's input.
        mesh: Devices that batches are sharded over; they do not change the result.
        seed: Seed of the run.
        batch_size: Number of images normalised together while statistics are estimated.

    Returns:
        {"params", "model_state"}, replicated over the mesh.
    """
    untrained = dataclasses.replace(method, encoder=method.encoder.with_live_branches())
    state = train_state.init_state(untrained, optax.identity(), spec, seed)
    modules = {"encoder": untrained.encoder}
    # A classifier's logits depend on its head, whose statistics are estimated as well.
    if getattr(untrained, "head", None) is not None:
        modules["head"] = untrained.head
    return reestimate_norm_statistics(
        modules,
        spmd.replicate(state.evaluated(untrained), mesh),
        images,
        spec,
        mesh,
        batch_size=batch_size,
        seed=seed,
    )


def describe_untrained(images: int) -> str:
    """Describes the untrained encoder in one line, for results.json and reports.

    Args:
        images: Number of training images that its BatchNorm statistics are estimated on.
    """
    return (
        "untrained encoder: same architecture and seed, residual branches active (last BatchNorm "
        f"scale 1), BatchNorm statistics of {images:,} training images"
    )
