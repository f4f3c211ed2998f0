"""Train step of a config and the shapes of its arguments, without data, devices or arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from cssl_jax.augment.view_group import number_groups
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.data.sources.open import is_array_source
from cssl_jax.errors import MissingDataError, UserError
from cssl_jax.experiment import builders
from cssl_jax.experiment.computation import computation_of
from cssl_jax.models import convolution
from cssl_jax.runtime import spmd

# Number of training images assumed where the data set cannot be counted. No cost depends on it.
IMAGENET = 1_281_167
PyTree = Any


@dataclasses.dataclass(frozen=True)
class DataShapes:
    """Properties of a recipe's data that are known without reading image files.

    Attributes:
        spec: Input of the encoder; mean and standard deviation are placeholders.
        pipeline: Name in ``data.pipeline.base.PIPELINES``.
        images: Shape [size, H, W, C] of a data set of arrays; None for image files.
        note: Description of the data source and of the choice of pipeline.
    """

    spec: InputSpec
    pipeline: str
    images: tuple[int, int, int, int] | None
    note: str


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step as per-device code, and its arguments as shapes.

    Attributes:
        function: Per-device step ``(state, constants, host_batch) -> (state, metrics)``.
        state: Shapes of the training state, which is replicated.
        constants: Shapes of the constants, which are replicated or split over the devices.
        host_batch: Shapes of the global batch, which is split over the devices.
        split_constants: Whether the constants are split over the devices.
    """

    function: Callable[[PyTree, PyTree, PyTree], PyTree]
    state: PyTree
    constants: PyTree
    host_batch: PyTree
    split_constants: bool = False


def abstract_mesh(devices: int) -> Mesh:
    """A mesh of devices that need not exist; sufficient for tracing a step."""
    mesh = AbstractMesh((devices,), (spmd.AXIS,), axis_types=(AxisType.Auto,))
    return cast(Mesh, mesh)


def data_shapes(config: Config, memory: int | None, devices: int) -> DataShapes:
    """Shapes of a recipe's data, and the pipeline that would bring it to the devices.

    Args:
        config: Config of the run.
        memory: Memory of one device in bytes, which decides whether a data set fits on it; None if
            unknown.
        devices: Number of devices, over which the data set may be split.

    Raises:
        UserError: The size of the views depends on the data, and the data is not available.
    """
    options = {
        "augment_on": config.data.augment_on,
        "resident": config.data.resident,
        "engine": config.data.engine,
        "memory": memory,
        "devices": devices,
    }
    spec, size = config.data.source, config.data.size
    if is_array_source(spec):
        try:
            train, _ = builders.load_data(config)
            assert isinstance(train, ArraySource)
        except MissingDataError:
            note = f"{spec} does not exist: assumed to be {size} px images in host memory"
            return _assumed(config, "stream", note)
        name, reason = pipelines.choose(train, **options)  # type: ignore[arg-type]
        channels, shape = train.channels, train.images.shape
        input_spec = InputSpec(size or shape[1], channels, (0.5,) * channels, (0.25,) * channels)
        return DataShapes(input_spec, name, cast(Any, shape), f"{spec}: {reason}")
    # Without reading it, any other source is assumed to hold image files.
    name, reason = pipelines.choose(cast(Source, None), **options)  # type: ignore[arg-type]
    return _assumed(config, name, f"{spec}, not read: {reason}")


def _assumed(config: Config, pipeline: str, note: str) -> DataShapes:
    """Input with the sizes that the config names, for data that is not read."""
    size, channels = config.data.size, len(config.data.mean) or config.data.channels
    if not size:
        raise UserError(
            "data.size is 0, which means the height of the images, and plan does not read these; "
            "give the side of a view, e.g. --data.size 32"
        )
    images = (IMAGENET, size, size, channels) if pipeline == "stream" else None
    spec = InputSpec(size, channels, (0.5,) * channels, (0.25,) * channels)
    return DataShapes(spec, pipeline, images, note)


def abstract_step(config: Config, mesh: Mesh, given: DataShapes) -> Step:
    """The train step that a run compiles on a mesh, and the shapes of its arguments.

    Args:
        config: Config of the run.
        mesh: Devices, of which only the number matters.
        given: Shapes and pipeline of the run's data.

    Raises:
        UserError: The batch does not divide over the devices.
    """
    batch, spec = config.train.batch_size, given.spec
    sampler = Sampler(max(given.images[0] if given.images else IMAGENET, batch), batch, 0)
    computation = computation_of(config, mesh, sampler)
    method = computation.method
    pipeline = pipelines.PIPELINES[given.pipeline](
        source=cast(Source, None),
        sampler=sampler,
        groups=number_groups(method.views, size=spec.size, policy=config.augment),
        mean=spec.mean,
        std=spec.std,
        rows=cast(Any, None),
    )
    function = computation.train_step(pipeline.make_batch)
    state = builders.state_shapes(method, computation.optimizer, spec)
    constants, host_batch = _pipeline_shapes(given, batch, pipeline, mesh.size)

    def as_on_accelerators(state: PyTree, constants: PyTree, host_batch: PyTree) -> PyTree:
        """The step with XLA's convolutions, on CPUs too: plans are about accelerators."""
        with convolution.xla_only():
            return function(state, constants, host_batch)

    return Step(as_on_accelerators, state, constants, host_batch, pipeline.split_constants)


def _pipeline_shapes(
    given: DataShapes, batch: int, pipeline: pipelines.Pipeline, devices: int
) -> tuple[PyTree, PyTree]:
    """Shapes of (constants, host batch) of the pipeline; labels, a few bytes, are omitted.

    Args:
        given: Shapes and pipeline of the run's data.
        batch: Global batch size in examples.
        pipeline: Pipeline, whose view groups matter.
        devices: Number of devices.
    """
    rows: PyTree = {
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
    assert isinstance(pipeline, pipelines.HostPipeline)
    rows["views"] = {
        name: jax.ShapeDtypeStruct(
            (batch, group.count, group.size, group.size, given.spec.channels), jnp.uint8
        )
        for name, group in pipeline.groups.items()
    }
    if pipeline.boxed:
        rows["image_size"] = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
        rows["box"] = {
            name: jax.ShapeDtypeStruct((batch, group.count, 4), jnp.int32)
            for name, group in pipeline.boxed.items()
        }
    return {}, rows
