"""Builds the method, the optimizer and the options of the train step from a config."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cssl_jax.config import Config, OptimizerConfig
from cssl_jax.data.sampler import Sampler
from cssl_jax.methods.base import Method
from cssl_jax.methods.entry import Modules
from cssl_jax.methods.parameter_group import FROZEN, ParameterGroup
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.models.heads import projection_head
from cssl_jax.models.normalization import NormGroups
from cssl_jax.models.registry import build_encoder, encoder_entry
from cssl_jax.optim import optimizers, schedules
from cssl_jax.optim.groups import Groups
from cssl_jax.optim.registry import OptimizerOptions
from cssl_jax.optim.trust_metrics import weight_decay
from cssl_jax.runtime import spmd
from cssl_jax.step.grad_cache import StepOptions


def make_method(config: Config, mesh: Mesh, teacher: Method | None = None) -> Method:
    """Builds the method with its modules; ``mesh`` only decides where BatchNorm groups are.

    ``teacher`` is that of ``experiment.teacher``, which only training needs.

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
    options = encoder_entry(config.model.encoder).options
    encoder = build_encoder(
        config.model.encoder,
        width=config.model.width,
        stem=config.model.stem,
        remat=config.model.remat,
        zero_init_residual=config.model.zero_init_residual,
        **{name: getattr(config.model, name) for name in options},
        **modality_entry(config.data.modality).encoder_options(config.data),
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
    return entry.build(config, Modules(encoder=encoder, head=head, teacher=teacher))


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
    """The method's group of a parameter, with what the encoder freezes and its layer-wise decay."""
    group = method.parameter_group(path)
    if path[0].key != "encoder":
        return group
    is_frozen = getattr(method.encoder, "is_frozen", None)
    if is_frozen is not None and is_frozen(path[1:]):
        return FROZEN
    if layer_decay == 1.0:
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
