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
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.pipeline.registry import PIPELINES
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import MissingDataError
from cssl_jax.experiment import data_splits, input_pipeline, train_state
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
        pipeline: Name in ``data.pipeline.registry.PIPELINES``.
        examples: Shapes and dtypes [size, ...] of a data set of arrays; None for image files.
        note: Description of the data source and of the choice of pipeline.
    """

    spec: InputSpec
    pipeline: str
    examples: PyTree | None
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
    name = config.data.source
    modality = data_splits.modality_of(config)
    if modality.encoded(config.data) and modality.assumed is not None:
        pipeline, reason = input_pipeline.choose_pipeline(
            config, None, memory=memory, devices=devices
        )
        spec, _ = modality.assumed(config.data, IMAGENET)
        return DataShapes(spec, pipeline, None, f"{name}, not read: {reason}")
    try:
        train, _ = data_splits.load_data(config)
    except MissingDataError:
        if modality.assumed is None:
            raise
        spec, examples = modality.assumed(config.data, IMAGENET)
        size = f"{modality.noun} of {spec.size:,} {modality.unit}"
        note = f"{name} does not exist: assumed to be {size} in host memory"
        return DataShapes(spec, "stream", examples, note)
    spec = data_splits.input_spec(config, train)
    train = modality.to_arrays(train, spec)
    assert isinstance(train, ArraySource)
    pipeline, reason = input_pipeline.choose_pipeline(config, train, memory=memory, devices=devices)
    return DataShapes(spec, pipeline, _shapes(train.examples), f"{name}: {reason}")


def _shapes(examples: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), examples)


def _with_rows(examples: PyTree, rows: int) -> PyTree:
    """Shapes of another number of examples."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), examples)


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
    count = jax.tree.leaves(given.examples)[0].shape[0] if given.examples else IMAGENET
    sampler = Sampler(max(count, batch), batch, 0)
    computation = computation_of(config, mesh, sampler)
    method = computation.method
    pipeline = PIPELINES[given.pipeline](
        source=cast(Source, None),
        sampler=sampler,
        groups=number_groups(method.views, size=spec.size, policy=config.augment),
        spec=spec,
        modality=data_splits.modality_of(config),
        rows=cast(Any, None),
    )
    function = computation.train_step(pipeline.make_batch)
    state = train_state.state_shapes(method, computation.optimizer, spec)
    constants, host_batch = _pipeline_shapes(given, batch, pipeline, mesh.size)

    def as_on_accelerators(state: PyTree, constants: PyTree, host_batch: PyTree) -> PyTree:
        """The step with XLA's convolutions, on CPUs too: plans are about accelerators."""
        with convolution.xla_only():
            return function(state, constants, host_batch)

    return Step(as_on_accelerators, state, constants, host_batch, pipeline.split_constants)


def _pipeline_shapes(
    given: DataShapes, batch: int, pipeline: Pipeline, devices: int
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
        examples = given.examples
        if given.pipeline == "resident-split":
            held = jax.tree.leaves(examples)[0].shape[0]
            examples = _with_rows(examples, devices * spmd.rows_held(held, devices))
        return {"examples": examples}, {"row": rows["index"]}
    if given.pipeline == "stream":
        return {}, {**rows, "examples": _with_rows(given.examples, batch)}
    assert isinstance(pipeline, HostPipeline)
    rows["views"] = {
        name: jax.ShapeDtypeStruct(
            (batch, group.count, group.size, group.size, pipeline.spec.channels), jnp.uint8
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
