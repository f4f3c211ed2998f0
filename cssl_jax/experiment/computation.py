"""What a train step computes: method, optimizer, schedule and micro-batches, without any data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from cssl_jax.config import Config
from cssl_jax.data.sampler import Sampler
from cssl_jax.experiment import builders
from cssl_jax.experiment.teacher import teacher_of
from cssl_jax.methods.base import Method
from cssl_jax.step.grad_cache import StepOptions, make_gradient
from cssl_jax.step.train_step import make_train_step

PyTree = Any
MakeBatch = Callable[[jax.Array, Any, Any], dict[str, Any]]
StepMetrics = Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
    """What a train step computes, for a mesh and an order of examples that may be hypothetical.

    Attributes:
        config: Config that the rest was built from.
        mesh: Devices that share each batch.
        sampler: Order of the training examples.
        method: Objective with its network modules.
        optimizer: Gradient transformation.
        schedule: Learning rate as a function of the step.
        total_steps: Number of steps of the run.
        step_options: Facts that the train step is built from.
    """

    config: Config
    mesh: Mesh
    sampler: Sampler
    method: Method
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int
    step_options: StepOptions

    def train_step(
        self,
        make_batch: MakeBatch,
        *,
        optimizer: optax.GradientTransformation | None = None,
        extra_metrics: StepMetrics | None = None,
    ) -> Callable[..., PyTree]:
        """Per-device train step, see ``make_train_step``.

        Args:
            make_batch: ``Pipeline.make_batch``.
            optimizer: Transformation in place of the config's own; None takes that.
            extra_metrics: (gradient, params, step) -> additional metrics; None: no others.
        """
        return make_train_step(
            self.method,
            optimizer or self.optimizer,
            self.schedule,
            make_batch,
            self.step_options,
            extra_metrics=extra_metrics,
        )

    def gradient(self, make_batch: MakeBatch) -> Callable[..., PyTree]:
        """Per-device function that computes the gradient, see ``make_gradient``."""
        return make_gradient(self.method, make_batch, self.step_options)


def computation_of(config: Config, mesh: Mesh, sampler: Sampler) -> Computation:
    """Builds what a train step computes.

    Raises:
        UserError: There is no such method, encoder, optimizer or teacher, or the batch does not
            divide over devices, groups and micro-batches.
    """
    step_options = builders.step_options(config, sampler, mesh)
    method = builders.make_method(config, mesh, teacher_of(config))
    optimizer, schedule, total_steps = builders.make_optimizer(config, sampler, method)
    return Computation(
        config=config,
        mesh=mesh,
        sampler=sampler,
        method=method,
        optimizer=optimizer,
        schedule=schedule,
        total_steps=total_steps,
        step_options=step_options,
    )
