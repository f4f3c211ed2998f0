"""The compiled train step of an experiment, shared by runs of one process that compute the same."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

from jax.sharding import Mesh

from cssl_jax.config import OptimizerConfig
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.sampler import Sampler
from cssl_jax.experiment.computation import Computation
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.methods.base import Method
from cssl_jax.optim.registry import OptimizerEntry, optimizer_entry
from cssl_jax.optim.trust_metrics import make_trust_ratio_metrics
from cssl_jax.runtime import spmd
from cssl_jax.step.grad_cache import StepOptions


def compiled_step(experiment: Experiment) -> Callable[..., Any]:
    """The train step over the devices of the experiment's mesh.

    A run that resumes in the process in which it began, as in a notebook, gets the step that it
    began with. JAX would otherwise trace the same step again, which takes seconds, and compile it
    again where there is no compile cache.
    """
    fields = {field.name: getattr(experiment, field.name) for field in _COMPUTATION}
    return _compiled(
        _Step(
            method=experiment.method,
            optimizer=experiment.config.optimizer,
            optimizer_entry=optimizer_entry(experiment.config.optimizer.name),
            options=experiment.step_options,
            sampler=experiment.sampler,
            batch=experiment.pipeline.identity,
            mesh=experiment.mesh,
            backend=experiment.config.runtime.backend,
            deterministic=experiment.config.runtime.deterministic,
            computation=Computation(**fields),
            pipeline=experiment.pipeline.without_examples(),
        )
    )


_COMPUTATION = dataclasses.fields(Computation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """A train step: all that it is traced from, and what it is built from the first time.

    Attributes:
        method: Method.
        optimizer: Options of the optimizer.
        optimizer_entry: Registry entry of the optimizer, whose code may be a user's.
        options: Facts that the step is built from.
        sampler: Order of the examples; its batch size scales the learning rate.
        batch: ``Pipeline.identity``.
        mesh: Devices.
        backend: Backend of ``spmd.data_parallel``.
        deterministic: Whether every execution must give the same bits.
        computation: Method and optimizer of the first run; not compared.
        pipeline: Pipeline of the first run, without its examples; not compared.
    """

    method: Method
    optimizer: OptimizerConfig
    optimizer_entry: OptimizerEntry
    options: StepOptions
    sampler: Sampler
    batch: Hashable
    mesh: Mesh
    backend: str
    deterministic: bool
    computation: Computation = dataclasses.field(compare=False)
    pipeline: Pipeline = dataclasses.field(compare=False)


# One step only: a compiled program takes memory on the devices for as long as it is kept.
@functools.lru_cache(maxsize=1)
def _compiled(step: _Step) -> Callable[..., Any]:
    total_steps = step.computation.total_steps
    return spmd.data_parallel(
        step.computation.train_step(
            step.pipeline.make_batch,
            extra_metrics=make_trust_ratio_metrics(step.optimizer, total_steps),
        ),
        step.mesh,
        step.backend,
        split_constants=step.pipeline.split_constants,
        deterministic=step.deterministic,
    )
