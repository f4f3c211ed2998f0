"""Builders of an experiment's components: data, method, pipeline, optimizer, initial state."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from cssl_jax.augment.view_group import ViewGroup, number_groups
from cssl_jax.config import Config, OptimizerConfig
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.pipeline.paired import PairPipeline, target_sampler
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.classes import align_class_numbers, names_of
from cssl_jax.errors import UserError
from cssl_jax.methods.adaptation import TARGET
from cssl_jax.methods.base import Method
from cssl_jax.methods.entry import Modules
from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.models.heads import projection_head
from cssl_jax.models.normalization import NormGroups
from cssl_jax.models.registry import build_encoder
from cssl_jax.optim import optimizers, schedules
from cssl_jax.optim.groups import Groups
from cssl_jax.optim.registry import OptimizerOptions
from cssl_jax.optim.trust_metrics import weight_decay
from cssl_jax.runtime import process, spmd
from cssl_jax.step.grad_cache import StepOptions
from cssl_jax.step.state import TrainState


def load_data(config: Config) -> tuple[Source, Source]:
    """Loads (training split, validation split): two sources, or a seeded split of one.

    Raises:
        UserError: The data cannot be read, the splits do not fit each other, or a method that needs
            labels has none.
    """
    train, validation = _load_splits(config)
    entry, loaded = method_entry(config.method.name), {"training": train, "validation": validation}
    if entry.labelled(config):
        for name, split in loaded.items():
            if split.labels is None or split.labels.max(initial=-1) < 0:
                raise UserError(
                    f"the {name} {modality_of(config).noun} have no labels; method "
                    f"{config.method.name} needs them"
                )
    if entry.evaluation == "classifier":
        for name, split in loaded.items():
            _check_labels(
                split, config.classifier.num_classes, f"{name} {modality_of(config).noun}"
            )
        train = sources.labelled_fraction(
            train, config.classifier.label_fraction, seed=config.train.seed
        )
    return train, validation


def _check_labels(split: Source, num_classes: int, name: str) -> None:
    """Raises UserError for a label without an output; ``num_classes`` 0 is not known yet.

    ``name`` is a plural noun, such as "training images".
    """
    largest = 0 if split.labels is None else int(split.labels.max())
    if num_classes and largest >= num_classes:
        raise UserError(
            f"the {name} have labels up to {largest} and classifier.num_classes is "
            f"{num_classes}; number the classes from 0 to {num_classes - 1}, or give "
            f"--classifier.num-classes {largest + 1}"
        )


def target_config(config: Config, classes: tuple[str, ...] = ()) -> Config:
    """The config with the target domain in place of the source.

    Args:
        config: Config of the adaptation.
        classes: Class names that number the target's labels; () uses the target's own.
    """
    return config.replace(
        {
            "data.source": config.adapt.target,
            "data.validation_source": config.adapt.target_validation,
            "data.labels": config.adapt.target_labels,
            "data.classes": classes,
        }
    )


def load_target(config: Config) -> tuple[Source, Source]:
    """Loads (training split, validation split) of the target domain.

    Labels are in the target's own numbering, which training does not use; see ``Domains``.

    Raises:
        UserError: The data cannot be read, or the splits do not fit each other.
    """
    return _load_splits(target_config(config))


def load_whole(config: Config) -> Source:
    """Loads ``data.source`` without a split.

    Raises:
        UserError: The data cannot be read, or its classes do not fit data.classes.
    """
    source = modality_of(config).open(config.data.source, config.data)
    if not config.data.classes:
        return source
    return align_class_numbers(
        source,
        config.data.classes,
        option="data.source",
        reference="data.classes",
        unknown=config.data.unknown_classes,
    )


def _load_splits(config: Config) -> tuple[Source, Source]:
    modality, source = modality_of(config), load_whole(config)
    unknown = config.data.unknown_classes
    if config.data.validation_source:
        validation = modality.open(config.data.validation_source, config.data)
        if modality.layout(source) != modality.layout(validation):
            raise UserError(
                f"data.validation_source has {modality.layout(validation)} and data.source "
                f"{modality.layout(source)}; give both the same shape"
            )
        if source.labels is not None and source.labels.max(initial=-1) >= 0:
            validation = align_class_numbers(
                validation,
                names_of(source),
                option="data.validation_source",
                reference="data.source",
                unknown=unknown,
            )
        return source, validation
    seed = config.train.seed if config.data.split_seed is None else config.data.split_seed
    train, held_out = sources.split(
        len(source), config.data.validation_fraction, seed, sources.groups_of(source)
    )
    return source.take(train), source.take(held_out)


def modality_of(config: Config) -> Modality:
    """The modality of a config's examples.

    Raises:
        UserError: There is no such modality.
    """
    return modality_entry(config.data.modality)


def input_spec(config: Config, train: Source) -> InputSpec:
    """Size and normalisation of the encoder's input, from the config or the training split.

    Raises:
        UserError: The config and the training split do not fit each other.
    """
    return modality_of(config).input_spec(config.data, train)


def make_method(config: Config, mesh: Mesh) -> Method:
    """Builds the method with its modules; ``mesh`` only decides where BatchNorm groups are.

    Raises:
        UserError: There is no such method or encoder, or the batch does not divide over devices
            and groups.
    """
    dtype = jnp.bfloat16 if config.model.dtype == "bfloat16" else None
    batch = config.train.batch_size, config.model.norm_group, mesh, config.train.micro_batch
    shared: dict[str, Any] = {
        "axis_name": spmd.AXIS,
        "norm_groups": NormGroups(
            count=spmd.norm_groups(*batch),
            examples=config.train.micro_batch or config.train.batch_size,
            views=config.model.norm_views,
        ),
        "dtype": dtype,
    }
    encoder = build_encoder(
        config.model.encoder,
        width=config.model.width,
        stem=config.model.stem,
        remat=config.model.remat,
        zero_init_residual=config.model.zero_init_residual,
        **shared,
    )
    head = functools.partial(
        projection_head,
        layers=config.model.projector_layers,
        hidden=config.model.projector_hidden,
        out=config.model.projector_dim,
        norm=config.model.projector_norm,
        **shared,
    )
    entry = method_entry(config.method.name)
    return entry.build(config, Modules(encoder=encoder, head=head))


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
) -> tuple[pipelines.Pipeline, str]:
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
        name: Name in ``pipelines.PIPELINES``; "" chooses by the data and the devices.

    Returns:
        (pipeline, its name and why it was chosen).
    """
    modality, reason = modality_of(config), "requested by name"
    if not name:
        name, reason = choose_pipeline(config, train, memory=memory, devices=devices)
    pipeline = pipelines.PIPELINES[name](
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
    """Name of the input pipeline and the reason for the choice, see ``pipelines.choose``.

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
    return pipelines.choose(
        train,
        **host,
        resident=data.resident,
        memory=memory,
        devices=devices,
        noun=modality.noun,
    )


def check_target(config: Config, target: Source, spec: InputSpec) -> None:
    """Raises UserError if an encoder of the source's examples cannot take those of the target."""
    if misfit := modality_of(config).misfit(target, spec):
        raise UserError(
            f"adapt.target does not fit data.source: {misfit}; give examples of the same kind, see "
            "data.channels"
        )


def with_target(
    pipeline: pipelines.Pipeline,
    config: Config,
    target: Source,
    spec: InputSpec,
    *,
    views: ViewGroup,
    memory: int | None,
) -> tuple[pipelines.Pipeline, str]:
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
    if len(target) < pipeline.sampler.batch_size:
        raise UserError(
            f"global batch {pipeline.sampler.batch_size} does not fit the {len(target)} target "
            f"images; use a batch of at most {len(target)}"
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
    return PairPipeline.of(pipeline, second), f"target images {where}"


def pipeline_alone(config: Config, mesh: Mesh, rows: np.ndarray) -> tuple[pipelines.Pipeline, str]:
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


def make_optimizer(
    config: Config, sampler: Sampler, method: Method
) -> tuple[optax.GradientTransformation, optax.Schedule, int]:
    """Builds (optimizer, learning-rate schedule, total number of steps)."""
    options = config.optimizer
    total_steps = config.train.epochs * sampler.steps_per_epoch
    peak = schedules.scaled_learning_rate(
        options.learning_rate, config.train.batch_size, options.scaling
    )
    schedule = schedules.make_schedule(
        options.schedule,
        peak,
        round(options.warmup_epochs * sampler.steps_per_epoch),
        total_steps,
    )
    optimizer = optimizers.make_optimizer(
        options.name,
        schedule,
        _optimizer_options(options, total_steps),
        Groups(
            group_of=functools.partial(_group_of, method, options.layer_decay),
            steps_per_epoch=sampler.steps_per_epoch,
            peak=peak,
        ),
    )
    return optimizer, schedule, total_steps


def _optimizer_options(options: OptimizerConfig, total_steps: int) -> OptimizerOptions:
    """The fields of the config section that optimizers have, and the run's weight decay."""
    names = {field.name for field in dataclasses.fields(OptimizerOptions)} & vars(options).keys()
    values = {name: getattr(options, name) for name in names}
    return OptimizerOptions(**{**values, "weight_decay": weight_decay(options, total_steps)})


def _group_of(method: Method, layer_decay: float, path: tuple[Any, ...]) -> ParameterGroup:
    """The method's group of a parameter, with the layer-wise decay of the encoder's stages."""
    group = method.parameter_group(path)
    if layer_decay == 1.0 or path[0].key != "encoder":
        return group
    below = method.encoder.num_stages - method.encoder.depth_of(path[1:])
    return dataclasses.replace(group, learning_rate=group.learning_rate * layer_decay**below)


def step_options(config: Config, sampler: Sampler, mesh: Mesh) -> StepOptions:
    """Facts that the train step of a run is built from."""
    return StepOptions(
        total_steps=config.train.epochs * sampler.steps_per_epoch,
        steps_per_epoch=sampler.steps_per_epoch,
        seed=config.train.seed,
        axis_name=spmd.AXIS,
        micro_batches=spmd.micro_batches(config.train.batch_size, mesh, config.train.micro_batch),
        frozen_norm=config.train.micro_batch_norm == "frozen",
    )


def init_state(
    method: Method, optimizer: optax.GradientTransformation, spec: InputSpec, seed: int
) -> TrainState:
    """Initial state; a function of the seed alone."""
    draw = _compiled(method, spec, jax.default_backend())
    params, model_state, method_state = draw(jax.random.key(seed))
    opt_state = jax.jit(optimizer.init)(params)
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, method_state, opt_state)


def with_model(method: Method, state: TrainState, model: dict[str, Any]) -> TrainState:
    """A first state with other weights, whose method_state starts from these weights too."""
    start = jax.jit(method.start)
    return state.replace(**model, method_state=start(model["params"], model["model_state"]))


def state_shapes(
    method: Method, optimizer: optax.GradientTransformation, spec: InputSpec
) -> TrainState:
    """Shapes of ``init_state``'s result as ``jax.ShapeDtypeStruct``, without compiling."""
    draw = _drawing(method, spec)
    params, model_state, method_state = jax.eval_shape(draw, jax.random.key(0))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(step, params, model_state, method_state, opt_state)


# JAX caches traces by the identity of a function. Runs in one process, as in a sweep, mostly have
# equal methods, which share their traces through these caches.
@functools.lru_cache(maxsize=8)
def _drawing(method: Method, spec: InputSpec) -> Callable[[jax.Array], Any]:
    """Function from a key to (params, model_state, method_state)."""
    zeros = modality_entry(spec.kind).zeros
    views = {
        name: zeros(spec, group.size or spec.size, 2, group.count)
        for name, group in method.views.items()
    }

    def draw(key: jax.Array) -> Any:
        params, model_state = method.init(key, {"views": views})
        return params, model_state, method.start(params, model_state)

    return draw


@functools.lru_cache(maxsize=8)
def _compiled(method: Method, spec: InputSpec, backend: str) -> Callable[[jax.Array], Any]:
    # Random draws compile slowly on CPU (a minute for ResNet-50 under jax 0.12) and run once.
    quick = {"xla_backend_optimization_level": 0} if backend == "cpu" else None
    return jax.jit(_drawing(method, spec), compiler_options=quick)
