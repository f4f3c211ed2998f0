"""Builds the input pipeline of an experiment from its data and its view groups."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cssl_jax.augment.view_group import ViewGroup, number_groups
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.paired import PairPipeline, target_sampler
from cssl_jax.data.pipeline.registry import PIPELINES, choose
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.experiment.builders import make_method
from cssl_jax.experiment.data_splits import check_target, input_spec, load_data, modality_of
from cssl_jax.methods.base import Method
from cssl_jax.methods.supervised.adaptation import TARGET
from cssl_jax.runtime import process


def own_views(method: Method) -> dict[str, ViewGroup]:
    """View groups of ``method`` that data.source provides."""
    return {name: group for name, group in method.views.items() if name != TARGET}


def make_pipeline(  # noqa: PLR0913 - each argument is a fact of its own
    config: Config,
    sampler: Sampler,
    spec: InputSpec,
    train: Source,
    *,
    views: Mapping[str, ViewGroup],
    rows: np.ndarray,
    memory: int | None,
    devices: int,
    name: str = "",
) -> tuple[Pipeline, str]:
    """Builds the input pipeline.

    Args:
        config: The run.
        sampler: Order of the examples.
        spec: Size and normalisation of the encoder's input.
        train: Training split.
        views: View groups that the source provides.
        rows: int [r], this process's rows of the global batch.
        memory: Bytes of one device; None if it does not report them.
        devices: Number of devices that resident images are split over.
        name: Name in ``registry.PIPELINES``; "" chooses by the data and the devices.

    Returns:
        (pipeline, its name and why it was chosen).
    """
    modality, reason = modality_of(config), "requested by name"
    train = modality.to_arrays(train, spec)
    if not name:
        name, reason = choose_pipeline(config, train, memory=memory, devices=devices)
    pipeline = PIPELINES[name](
        source=train,
        sampler=sampler,
        groups=number_groups(views, size=spec.size, policy=config.augment),
        spec=spec,
        modality=modality,
        rows=rows,
    )
    return pipeline, f"{name}: {reason}"


def choose_pipeline(
    config: Config, train: Source | None, *, memory: int | None, devices: int
) -> tuple[str, str]:
    """Name of the input pipeline and the reason for the choice, see ``registry.choose``.

    Args:
        config: The run.
        train: Training split; None: encoded images.
        memory: Bytes of one device; None if it does not report them.
        devices: Number of devices that resident examples are split over.
    """
    data: Any = config.data
    modality = modality_of(config)
    if not modality.images:  # host backends make views of images only
        host = {"augment_on": "device", "engine": "auto"}
    else:
        host = {"augment_on": data.augment_on, "engine": data.engine}
    return choose(
        train,
        **host,
        resident=data.resident,
        memory=memory,
        devices=devices,
        noun=modality.noun,
    )


def with_target(
    pipeline: Pipeline,
    config: Config,
    target: Source,
    spec: InputSpec,
    *,
    views: ViewGroup,
    memory: int | None,
) -> tuple[Pipeline, str]:
    """Extends a pipeline to pairs of a source image and a target image.

    Args:
        pipeline: Pipeline of the source.
        config: The run.
        target: Training split of the target domain.
        spec: Size and normalisation of the encoder's input, those of the source.
        views: View group of the target images.
        memory: Bytes of one device; None if it does not report them.

    Returns:
        (pipeline of pairs, where the target images are held).

    Raises:
        UserError: The target's examples do not fit the encoder, or are fewer than a batch.
    """
    check_target(config, target, spec)
    noun = modality_of(config).noun
    if len(target) < pipeline.sampler.batch_size:
        raise UserError(
            f"global batch {pipeline.sampler.batch_size} does not fit the {len(target)} target "
            f"{noun}; use a batch of at most {len(target)}"
        )
    second, where = make_pipeline(
        config,
        target_sampler(len(target), pipeline.sampler),
        spec,
        target,
        views={TARGET: views},
        rows=pipeline.rows,
        memory=memory,
        devices=1,
    )
    return PairPipeline.of(pipeline, second), f"target {noun} {where}"


def pipeline_alone(config: Config, mesh: Mesh, rows: np.ndarray) -> tuple[Pipeline, str]:
    """Builds the input pipeline alone, for these rows of the global batch."""
    train, _ = load_data(config)
    return make_pipeline(
        config,
        Sampler(len(train), config.train.batch_size, config.train.seed),
        input_spec(config, train),
        train,
        views=own_views(make_method(config, mesh)),
        rows=rows,
        memory=process.device_memory(mesh.local_devices[0]),
        devices=mesh.size,
    )
