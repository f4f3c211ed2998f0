"""A few real steps of a config on some devices, and how far two such trials lie apart."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssl_jax.config import Config
from cssl_jax.data.pipeline import base as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.experiment import builders
from cssl_jax.runtime import spmd
from cssl_jax.step import train_step as steps_module
from cssl_jax.step.grad_cache import make_gradient
from cssl_jax.step.state import TrainState

PyTree = Any


class Outcome(NamedTuple):
    """What a trial computed, flat and on the host.

    Attributes:
        examples: int [steps, rows], that this process fed.
        loss: [steps].
        gradient: Raw, of the first step; before optimizer, clipping and weight decay.
        params: After the last step.
        statistics: Running ones of BatchNorm, likewise.
    """

    examples: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    params: np.ndarray
    statistics: np.ndarray


class Difference(NamedTuple):
    """How far an outcome is from the reference, each relative to the reference's largest.

    Attributes:
        loss: Of all steps.
        gradient: Of the first step.
        params: After the last step.
        statistics: Likewise.
        scale: Factor by which the gradient is too long, along the reference's: n is a sum over n
            devices where a mean should be.
    """

    loss: float
    gradient: float
    params: float
    statistics: float
    scale: float


class Trial:
    """The parts of a run on some devices, as ``train.pretrain`` puts them together.

    Attributes are those of ``train.parts.Experiment``, and ``options`` of ``make_gradient``.
    """

    def __init__(
        self,
        config: Config,
        train: Source,
        devices: Sequence[jax.Device],
        backend: str = "shard_map",
        pipeline: str | None = None,
        first_state: TrainState | None = None,
    ) -> None:
        """Builds them.

        Args:
            config: The run.
            train: The training part.
            devices: To spread the step over; of all processes, where there are several.
            backend: As for ``spmd.data_parallel``.
            pipeline: Name in ``data.pipeline.PIPELINES``; None chooses as a run does.
            first_state: Another trial's of this config, which spares initialising; None does.
        """
        self.mesh, self.backend = spmd.make_mesh(devices), backend
        self._deterministic = config.runtime.deterministic
        batch = config.train.batch_size, self.mesh, config.train.micro_batch
        self.sampler = Sampler(len(train), config.train.batch_size, config.train.seed)
        self.method = builders.make_method(config, self.mesh)
        spec = builders.input_spec(config, train)
        if pipeline is None:
            pipeline, _ = pipelines.choose(
                train,
                augment_on=config.data.augment_on,
                resident=config.data.resident,
                engine=config.data.engine,
                memory=None,
                devices=self.mesh.size,
            )
        self.pipeline = pipelines.PIPELINES[pipeline](
            source=train,
            sampler=self.sampler,
            policy=config.augment,
            views=builders.own_views(self.method),
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            rows=spmd.process_rows(*batch),
        )
        self.optimizer, self.schedule, self.total_steps = builders.make_optimizer(
            config, self.sampler
        )
        self.first_state = first_state or builders.init_state(
            self.method, self.optimizer, spec, config.train.seed
        )
        self.constants = spmd.put_constants(
            self.pipeline.constants, self.mesh, backend, self.pipeline.split_constants
        )
        self.options: dict[str, Any] = {
            "total_steps": self.total_steps,
            "axis_name": spmd.AXIS,
            "micro_batches": spmd.micro_batches(*batch),
            "frozen_norm": config.train.micro_batch_norm == "frozen",
        }

    def state(self, dtype: Any = None) -> TrainState:
        """The first state on the devices, its floats as ``dtype``."""

        def cast(x: jax.Array) -> np.ndarray:
            return np.asarray(x, dtype) if jnp.issubdtype(x.dtype, np.floating) else np.asarray(x)

        state = jax.tree.map(cast, self.first_state) if dtype else self.first_state
        return spmd.replicate(state, self.mesh)

    def host_batches(self, start: int, stop: int) -> Generator[PyTree]:
        """What the steps [start, stop) are fed, on the devices."""
        for host_batch in self.pipeline.host_batches(start, stop):
            yield spmd.put_batch(host_batch, self.mesh, self.backend)

    def gradient(self) -> Callable[..., PyTree]:
        """Per-device code, see ``make_gradient``."""
        return make_gradient(self.method, self.pipeline.make_batch, **self.options)

    def spread(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Per-device code over the devices."""
        return spmd.data_parallel(
            function,
            self.mesh,
            self.backend,
            donate=False,
            split_constants=self.pipeline.split_constants,
            deterministic=self._deterministic,
        )

    def train_step(
        self, optimizer: optax.GradientTransformation | None = None
    ) -> Callable[..., PyTree]:
        """The train step over the devices."""
        return self.spread(
            steps_module.make_train_step(
                self.method,
                optimizer or self.optimizer,
                self.schedule,
                self.pipeline.make_batch,
                **self.options,
            )
        )

    def run(self, steps: int, dtype: Any = np.float32) -> Outcome:
        """Takes steps of the run, computed in ``dtype``.

        float64 needs JAX's x64 switch. Everything is this process's own; what is replicated is
        compared between its devices.

        Raises:
            RuntimeError: Parameters or statistics differ between devices.
        """
        step = self.train_step(recording(self.optimizer))
        state = self.state(dtype)
        none = jax.tree.map(jnp.zeros_like, state.params)
        state = state.replace(opt_state=(none, state.opt_state))
        losses, examples, gradient = [], [], None
        for number, host_batch in enumerate(self.pipeline.host_batches(0, steps)):
            examples.append(_examples(self.sampler, number, host_batch))
            placed = spmd.put_batch(host_batch, self.mesh, self.backend)
            state, metrics = step(state, self.constants, placed)
            losses.append(np.asarray(metrics["loss"]))
            if gradient is None:
                gradient = flat(state.opt_state[0])
        spmd.assert_replicated(state)
        assert gradient is not None
        return Outcome(
            np.array(examples),
            np.array(losses),
            gradient,
            flat(state.params),
            flat(state.model_state),
        )


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, with the gradient that it was last given in front of its state."""

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params), optimizer.init(params)

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> PyTree:
        updates, inner = optimizer.update(grads, state[1], params)
        return updates, (grads, inner)

    return optax.GradientTransformation(init, update)


def _examples(sampler: Sampler, step: int, host_batch: dict[str, np.ndarray]) -> np.ndarray:
    return (
        host_batch["index"] if "index" in host_batch else sampler.draw(step, host_batch["row"])[0]
    )


def flat(tree: PyTree) -> np.ndarray:
    """All leaves, one after another, on the host."""
    leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def compare(outcome: Outcome, reference: Outcome) -> Difference:
    """``Difference`` of two outcomes of one precision."""
    along = np.dot(outcome.gradient, reference.gradient)
    judged = {
        name: largest_difference(getattr(outcome, name), getattr(reference, name))
        for name in ("loss", "gradient", "params", "statistics")
    }
    return Difference(**judged, scale=float(along / np.dot(reference.gradient, reference.gradient)))


def largest_difference(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest |value - reference|, in units of the reference's largest magnitude."""
    if not reference.size:
        return 0.0
    return float(np.abs(value - reference).max() / np.abs(reference).max())
