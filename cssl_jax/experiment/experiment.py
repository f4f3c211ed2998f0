"""Builds from a config everything that a run needs before its first step."""

import dataclasses
import operator
from typing import Any

import optax
from jax.sharding import Mesh

from cssl_jax import recipes
from cssl_jax.config import CODE_FIELDS, Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.experiment import builders
from cssl_jax.methods.base import Method
from cssl_jax.methods.registry import method_entry
from cssl_jax.registries import code_digest, is_file_name
from cssl_jax.runtime import process, spmd
from cssl_jax.step.grad_cache import StepOptions

KERNELS = "kernels"  # key in a checkpoint's meta: library that renders views on the host


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run before its first step: data, method, input, optimizer.

    Attributes:
        mesh: Devices that share each batch.
        train: Training split.
        validation: Validation split.
        spec: Size and normalisation of the encoder's input.
        sampler: Order of the training examples.
        method: Objective with its network modules.
        pipeline: Input pipeline.
        input_reason: Name of the pipeline and why it was chosen, for the log.
        optimizer: Gradient transformation.
        schedule: Learning rate as a function of the step.
        total_steps: Number of steps of the run.
        step_options: Facts that the train step is built from.
        meta: JSON that is saved beside every checkpoint.
        facts: JSON that must be identical in all processes.
    """

    mesh: Mesh
    train: Source
    validation: Source
    spec: InputSpec
    sampler: Sampler
    method: Method
    pipeline: pipelines.Pipeline
    input_reason: str
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int
    step_options: StepOptions
    meta: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def from_config(cls, config: Config) -> "Experiment":
        """Builds an experiment; reads the data and writes nothing.

        Raises:
            UserError: The config, the data and the devices do not fit each other.
        """
        mesh = process.make_mesh(config.runtime.devices)
        batch_size, micro_batch = config.train.batch_size, config.train.micro_batch
        train, validation = builders.load_data(config)
        spec = builders.input_spec(config, train)
        sampler = Sampler(len(train), batch_size, config.train.seed)
        method = builders.make_method(config, mesh)
        paired = method_entry(config.method.name).paired
        memory = process.device_memory(mesh.local_devices[0])
        made, reason = builders.make_pipeline(
            config,
            sampler,
            spec,
            train,
            views=builders.own_views(method),
            rows=spmd.process_rows(batch_size, mesh, micro_batch),
            memory=memory,
            devices=1 if paired else mesh.size,  # both images of a pair are on the same device
        )
        fingerprints = {"train": train.fingerprint(), "validation": validation.fingerprint()}
        if paired:
            target, _ = builders.load_target(config)
            made, target_reason = builders.with_target(made, config, target, memory=memory)
            reason += f"; {target_reason}"
            fingerprints["target"] = target.fingerprint()
        optimizer, schedule, total_steps = builders.make_optimizer(config, sampler)
        return cls(
            mesh=mesh,
            train=train,
            validation=validation,
            spec=spec,
            sampler=sampler,
            method=method,
            pipeline=made,
            input_reason=reason,
            optimizer=optimizer,
            schedule=schedule,
            total_steps=total_steps,
            step_options=builders.step_options(config, sampler, mesh),
            meta={
                "config": recipes.to_dict(config),
                "input": vars(spec),
                "data": fingerprints,
                "code": _code(config),
                "classes": list(train.classes),
                KERNELS: made.kernels,
                "versions": process.versions(),
                "environment": process.environment(mesh),
            },
            facts={
                "training examples": len(train),
                "validation examples": len(validation),
                **{f"{split} images": fingerprint for split, fingerprint in fingerprints.items()},
                "input": vars(spec),
                "pipeline": reason.partition(":")[0],
            },
        )


def _code(config: Config) -> dict[str, str]:
    """Digests of the user's own files, by the config field that names one."""
    names = {field: operator.attrgetter(field)(config) for field in CODE_FIELDS}
    return {field: code_digest(name) for field, name in names.items() if is_file_name(name)}
