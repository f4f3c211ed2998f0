"""Builds from a config everything that a run needs before its first step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from cssl_jax import recipes
from cssl_jax.config import Config, code_names
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.experiment import data_splits, input_pipeline
from cssl_jax.experiment.computation import Computation, computation_of
from cssl_jax.methods.registry import method_entry
from cssl_jax.methods.supervised.adaptation import TARGET
from cssl_jax.registries import code_digest
from cssl_jax.runtime import process, spmd

KERNELS = "kernels"  # key in a checkpoint's meta: library that renders views on the host


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Computation):
    """A run before its first step: what a step computes, the data and the input.

    Attributes:
        train: Training split.
        validation: Validation split.
        spec: Size and normalisation of the encoder's input.
        pipeline: Input pipeline.
        input_reason: Name of the pipeline and why it was chosen, for the log.
        meta: JSON that is saved beside every checkpoint.
        facts: JSON that must be identical in all processes.
    """

    train: Source
    validation: Source
    spec: InputSpec
    pipeline: Pipeline
    input_reason: str
    meta: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        devices: Sequence[jax.Device] | None = None,
        splits: tuple[Source, Source] | None = None,
        target: Source | None = None,
        pipeline: str = "",
    ) -> "Experiment":
        """Builds an experiment; reads the data and writes nothing.

        Args:
            config: The run.
            devices: Devices that share each batch; None takes ``runtime.devices``.
            splits: (training split, validation split) in place of ``data.source``.
            target: Training images of the other domain in place of ``adapt.target``.
            pipeline: Name of an input pipeline in ``PIPELINES``; "" chooses by the data and the
                devices.

        Raises:
            UserError: The config, the data and the devices do not fit each other.
        """
        if devices is None:
            mesh = process.make_mesh(config.runtime.devices)
        else:
            mesh = spmd.make_mesh(devices)
        batch_size, micro_batch = config.train.batch_size, config.train.micro_batch
        train, validation = splits or data_splits.load_data(config)
        spec = data_splits.input_spec(config, train)
        sampler = Sampler(len(train), batch_size, config.train.seed)
        computation = computation_of(config, mesh, sampler)
        paired = method_entry(config.method.name).paired
        memory = process.device_memory(mesh.local_devices[0])
        made, reason = input_pipeline.make_pipeline(
            config,
            sampler,
            spec,
            train,
            views=input_pipeline.own_views(computation.method),
            rows=spmd.process_rows(batch_size, mesh, micro_batch),
            memory=memory,
            devices=1 if paired else mesh.size,  # both images of a pair are on the same device
            name=pipeline,
        )
        fingerprints = {"train": train.fingerprint(), "validation": validation.fingerprint()}
        if paired:
            target = target or data_splits.load_target(config)[0]
            views = computation.method.views[TARGET]
            made, target_reason = input_pipeline.with_target(
                made, config, target, spec, views=views, memory=memory
            )
            reason += f"; {target_reason}"
            fingerprints["target"] = target.fingerprint()
        return cls(
            **vars(computation),
            train=train,
            validation=validation,
            spec=spec,
            pipeline=made,
            input_reason=reason,
            meta={
                "config": recipes.to_dict(config),
                "input": dataclasses.asdict(spec),
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
                "input": dataclasses.asdict(spec),
                "pipeline": reason.partition(":")[0],
            },
        )


def _code(config: Config) -> dict[str, str]:
    """Digests of the user's own files, by the config field that names one."""
    return {field: code_digest(name) for field, name in code_names(config).items()}
