"""From a config to all parts of a run, before its first step."""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.experiment import builders
from cssl_jax.methods.base import Method
from cssl_jax.methods.registry import method_entry
from cssl_jax.registries import code_digest, is_file_name
from cssl_jax.runtime import process, spmd

KERNELS = "kernels"  # in a checkpoint's meta: what made the views on the host


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a config becomes before its first step.

    Attributes:
        mesh: Of devices.
        train: The training part.
        validation: The validation part.
        spec: What the encoder takes.
        sampler: Order of the training part.
        method: The objective with its modules.
        pipeline: Where the input is made.
        input_reason: The pipeline's name and why it was chosen, in words.
        optimizer: The update.
        schedule: The learning rate it follows.
        total_steps: Of the run.
        micro_batches: Parts that a batch is encoded in.
        meta: What is saved beside every checkpoint, ready for JSON.
        facts: What must be the same in all processes, likewise.
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
    micro_batches: int
    meta: dict[str, Any]
    facts: dict[str, Any]


def assemble(config: Config) -> Parts:
    """Builds the parts; touches no file but the data.

    Raises:
        UserError: The config, the data and the devices do not fit each other.
    """
    mesh = process.make_mesh(config.runtime.devices)
    batch_size, micro_batch = config.train.batch_size, config.train.micro_batch
    rows = spmd.process_rows(batch_size, mesh, micro_batch)
    train, validation = builders.load_data(config)
    spec = builders.input_spec(config, train)
    sampler = Sampler(len(train), batch_size, config.train.seed)
    method = builders.make_method(config, mesh)
    paired = method_entry(config.method.name).paired
    memory = process.device_memory(mesh.local_devices[0])
    pipeline, reason = builders.make_pipeline(
        config,
        sampler,
        spec,
        train,
        views=builders.own_views(method),
        rows=rows,
        memory=memory,
        devices=1 if paired else mesh.size,  # both images of a pair are on the same device
    )
    fingerprints = {"train": train.fingerprint(), "validation": validation.fingerprint()}
    if paired:
        target, _ = builders.load_target(config)
        pipeline, also = builders.with_target(pipeline, config, target, memory=memory)
        reason += f"; {also}"
        fingerprints["target"] = target.fingerprint()
    optimizer, schedule, total_steps = builders.make_optimizer(config, sampler)
    meta: dict[str, Any] = {
        "config": recipes.to_dict(config),
        "input": vars(spec),
        "data": fingerprints,
        "code": _code(config),
        "classes": list(train.classes),
        KERNELS: pipeline.kernels,
        "versions": process.versions(),
        "environment": process.environment(mesh),
    }
    return Parts(
        mesh=mesh,
        train=train,
        validation=validation,
        spec=spec,
        sampler=sampler,
        method=method,
        pipeline=pipeline,
        input_reason=reason,
        optimizer=optimizer,
        schedule=schedule,
        total_steps=total_steps,
        micro_batches=spmd.micro_batches(batch_size, mesh, micro_batch),
        meta=meta,
        facts={
            "training examples": len(train),
            "validation examples": len(validation),
            **{f"{part} images": fingerprint for part, fingerprint in meta["data"].items()},
            "input": vars(spec),
            "pipeline": reason.partition(":")[0],
        },
    )


def _code(config: Config) -> dict[str, str]:
    """Digests of the user's own files, by the config field that names one."""
    names = {"method.name": config.method.name, "model.encoder": config.model.encoder}
    return {field: code_digest(name) for field, name in names.items() if is_file_name(name)}
