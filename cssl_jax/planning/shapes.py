"""The train step of a config and the shapes of its arguments; no data, no device, no memory."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.models import convolution
from cssl_jax.runtime import spmd
from cssl_jax.step.train_step import make_train_step

IMAGENET = (
    1_281_167  # training images, where a set is not here to be counted: no cost depends on it
)
PyTree = Any


@dataclasses.dataclass(frozen=True)
class Input:
    """What is known of a recipe's data without reading any.

    Attributes:
        spec: What the encoder takes; mean and deviation are placeholders.
        pipeline: Name in ``data.pipeline.PIPELINES``.
        images: Shape [size, H, W, C] of a set in memory; None for pictures.
        note: Where from, in words.
    """

    spec: InputSpec
    pipeline: str
    images: tuple[int, int, int, int] | None
    note: str


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step as per-device code, and its arguments as shapes.

    Attributes:
        function: ``(state, constants, feed) -> (state, metrics)``.
        state: Replicated.
        constants: Replicated, or split over the devices.
        host_batch: Of the global batch, split over the devices.
        split_constants: Whether they are.
    """

    function: Callable[[PyTree, PyTree, PyTree], PyTree]
    state: PyTree
    constants: PyTree
    host_batch: PyTree
    split_constants: bool = False


def abstract_mesh(devices: int) -> Mesh:
    """A mesh of devices that need not be there: enough to trace a step for."""
    mesh = AbstractMesh((devices,), (spmd.AXIS,), axis_types=(AxisType.Auto,))
    return cast(Mesh, mesh)


def input_of(config: Config, memory: int | None, devices: int) -> Input:
    """How a recipe's data would come to the device.

    Args:
        config: The run.
        memory: Bytes of one device, which decide whether a set stays on it.
        devices: Of the run, over which it may be split.

    Raises:
        UserError: The size of the views is in the data, and that is not here.
    """
    options = {
        "augment_on": config.data.augment_on,
        "resident": config.data.resident,
        "engine": config.data.engine,
        "memory": memory,
        "devices": devices,
    }
    spec, size = config.data.source, config.data.size
    arrays = spec == "digits" or spec.endswith(".npz")
    if arrays:
        try:
            train, _ = builders.load_data(config)
            assert isinstance(train, ArraySource)
        except UserError as error:
            if "does not exist" not in str(error):
                raise
            note = f"{spec} is not here: taken as {size} px images that the host feeds"
            return _assumed(config, "stream", note)
        name, reason = pipelines.choose(train, **options)  # type: ignore[arg-type]
        channels, shape = train.channels, train.images.shape
        input_spec = InputSpec(size or shape[1], channels, (0.5,) * channels, (0.25,) * channels)
        return Input(input_spec, name, cast(Any, shape), f"{spec}: {reason}")
    # Any source that is no array stands for pictures.
    name, reason = pipelines.choose(cast(Source, None), **options)  # type: ignore[arg-type]
    return _assumed(config, name, f"{spec}, unread: {reason}")


def _assumed(config: Config, pipeline: str, note: str) -> Input:
    size, channels = config.data.size, len(config.data.mean) or config.data.channels
    if not size:
        raise UserError(
            "data.size is 0, the height of the images, and these are not read here; give the side "
            "of a view, e.g. --data.size 32"
        )
    images = (IMAGENET, size, size, channels) if pipeline == "stream" else None
    spec = InputSpec(size, channels, (0.5,) * channels, (0.25,) * channels)
    return Input(spec, pipeline, images, note)


def step_of(config: Config, mesh: Mesh, given: Input) -> Step:
    """The step that a run would compile on such a mesh.

    Raises:
        UserError: The batch and the devices do not fit each other.
    """
    batch, micro_batch = config.train.batch_size, config.train.micro_batch
    parts = spmd.micro_batches(batch, mesh, micro_batch)
    method = builders.make_method(config, mesh)
    sampler = Sampler(max(given.images[0] if given.images else IMAGENET, batch), batch, 0)
    optimizer, schedule, total_steps = builders.make_optimizer(config, sampler)
    spec = given.spec
    pipeline = pipelines.PIPELINES[given.pipeline](
        source=cast(Source, None),
        sampler=sampler,
        policy=config.augment,
        views=method.views,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        rows=cast(Any, None),
    )
    function = make_train_step(
        method,
        optimizer,
        schedule,
        pipeline.make_batch,
        total_steps=total_steps,
        axis_name=spmd.AXIS,
        micro_batches=parts,
        frozen_norm=config.train.micro_batch_norm == "frozen",
    )
    state = builders.state_shapes(method, optimizer, spec)
    constants, host_batch = _fed(given, batch, sum(method.views.values()), mesh.size)

    def as_on_accelerators(state: PyTree, constants: PyTree, host_batch: PyTree) -> PyTree:
        """The step with XLA's convolutions, wherever it is compiled."""
        with convolution.xla_only():
            return function(state, constants, host_batch)

    return Step(as_on_accelerators, state, constants, host_batch, pipeline.split_constants)


def _fed(given: Input, batch: int, views: int, devices: int) -> tuple[PyTree, PyTree]:
    """(constants, feed) as the pipelines make them; labels, a few bytes, are left out."""
    size, channels = given.spec.size, given.spec.channels
    rows = {
        "index": jax.ShapeDtypeStruct((batch,), jnp.int32),
        "key": jax.ShapeDtypeStruct((batch, 2), jnp.uint32),
    }
    if given.pipeline in ("resident", "resident-split"):
        assert given.images is not None
        count, *shape = given.images
        if given.pipeline == "resident-split":
            count = devices * spmd.rows_held(count, devices)
        images = jax.ShapeDtypeStruct((count, *shape), jnp.uint8)
        return {"images": images}, {"row": rows["index"]}
    if given.pipeline == "stream":
        assert given.images is not None
        return {}, {**rows, "images": jax.ShapeDtypeStruct((batch, *given.images[1:]), jnp.uint8)}
    made = jax.ShapeDtypeStruct((batch, views, size, size, channels), jnp.uint8)
    return {}, {**rows, "views": made}
