"""Runs a few training steps of a config on given devices, and compares two such trials."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssl_jax.config import Config
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.experiment import train_state
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.runtime import spmd
from cssl_jax.step.state import TrainState

PyTree = Any


class Outcome(NamedTuple):
    """Results of a trial as flat arrays on the host, in the precision of the trial.

    Attributes:
        examples: Indices of the examples that this process supplied, int [steps, rows].
        loss: Loss per step, [steps].
        gradient: Raw gradient of the first step, before optimizer, clipping and weight decay.
        params: Parameters after the last step.
        statistics: Running statistics of BatchNorm after the last step.
        method_state: State of the method after the last step, such as a momentum copy.
    """

    examples: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    params: np.ndarray
    statistics: np.ndarray
    method_state: np.ndarray


class Difference(NamedTuple):
    """Largest differences from the reference, relative to the reference's largest magnitude.

    Attributes:
        loss: Largest difference of the loss over all steps.
        gradient: Largest difference of the first step's gradient.
        params: Largest difference of the parameters after the last step.
        statistics: Largest difference of the running statistics after the last step.
        method_state: Largest difference of the method's state after the last step.
        scale: Gradient projected onto the reference's, in units of the reference's norm. A value
            of n indicates a sum over n devices instead of a mean.
    """

    loss: float
    gradient: float
    params: float
    statistics: float
    method_state: float
    scale: float


class Trial:
    """A few steps of a run on given devices, built as ``train.pretrain`` builds them.

    Attributes are those of ``experiment.Experiment``.
    """

    def __init__(
        self,
        config: Config,
        train: Source,
        devices: Sequence[jax.Device],
        backend: str = "shard_map",
        pipeline: str = "",
        target: Source | None = None,
        first_state: TrainState | None = None,
    ) -> None:
        """Builds the components.

        Args:
            config: Config of the run.
            train: Training split.
            devices: Devices to split a batch over; with several processes, those of all.
            backend: Backend of ``spmd.data_parallel``: "shard_map" or "pmap".
            pipeline: Name in ``data.pipeline.registry.PIPELINES``; "" chooses as a run does.
            target: Training images of the other domain, in place of ``adapt.target``.
            first_state: Initial state of another trial of this config, reused to save time; None
                initialises one.
        """
        # A trial evaluates nothing: its validation split is not read.
        self.experiment = Experiment.from_config(
            config, devices=devices, splits=(train, train), target=target, pipeline=pipeline
        )
        self.mesh, self.backend = self.experiment.mesh, backend
        self.sampler, self.method = self.experiment.sampler, self.experiment.method
        self.pipeline, self.total_steps = self.experiment.pipeline, self.experiment.total_steps
        self.optimizer, self.schedule = self.experiment.optimizer, self.experiment.schedule
        self.first_state = first_state or train_state.init_state(
            self.method, self.optimizer, self.experiment.spec, config.train.seed
        )
        self.constants = spmd.put_constants(
            self.pipeline.constants, self.mesh, backend, self.pipeline.split_constants
        )

    def state(self, dtype: Any = None) -> TrainState:
        """Initial state on the devices, its floats cast to ``dtype``; None keeps their types."""

        def cast(x: jax.Array) -> np.ndarray:
            return np.asarray(x, dtype) if jnp.issubdtype(x.dtype, np.floating) else np.asarray(x)

        state = jax.tree.map(cast, self.first_state) if dtype else self.first_state
        replicated: TrainState = spmd.replicate(state, self.mesh)
        return replicated

    def host_batches(self, start: int, stop: int) -> Generator[PyTree]:
        """Host batches of the steps [start, stop), placed on the devices."""
        for host_batch in self.pipeline.host_batches(start, stop):
            yield spmd.put_batch(host_batch, self.mesh, self.backend)

    def gradient(self) -> Callable[..., PyTree]:
        """Per-device function that computes the gradient, see ``make_gradient``."""
        return self.experiment.gradient(self.pipeline.make_batch)

    def spread(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Compiles a per-device function for the trial's devices; donates no argument."""
        return spmd.data_parallel(
            function,
            self.mesh,
            self.backend,
            donate=False,
            split_constants=self.pipeline.split_constants,
            deterministic=self.experiment.config.runtime.deterministic,
        )

    def train_step(
        self, optimizer: optax.GradientTransformation | None = None
    ) -> Callable[..., PyTree]:
        """Train step for the trial's devices, with its own optimizer unless one is given."""
        return self.spread(
            self.experiment.train_step(self.pipeline.make_batch, optimizer=optimizer)
        )

    def run(self, steps: int, dtype: Any = np.float32) -> Outcome:
        """Runs steps from the initial state, computed in ``dtype``.

        Args:
            steps: Number of steps.
            dtype: Floating-point type; float64 needs ``jax_enable_x64``.

        Returns:
            Results of this process, whose replicated values are identical on its devices.

        Raises:
            RuntimeError: Parameters or statistics differ between devices.
        """
        step = self.train_step(recording(self.optimizer))
        state = self.state(dtype)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        state = state.replace(opt_state=(zeros, state.opt_state))  # as of ``recording``
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
            flat(state.method_state),
        )


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps an optimizer: its state becomes (last raw gradient, state of the optimizer)."""

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params), optimizer.init(params)

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> PyTree:
        updates, inner = optimizer.update(grads, state[1], params)
        return updates, (grads, inner)

    return optax.GradientTransformation(init, update)


def _examples(sampler: Sampler, step: int, host_batch: dict[str, np.ndarray]) -> np.ndarray:
    """Indices of a host batch's examples, int [rows]; resident pipelines send row numbers only."""
    return (
        host_batch["index"] if "index" in host_batch else sampler.draw(step, host_batch["row"])[0]
    )


def flat(tree: PyTree) -> np.ndarray:
    """Leaves of a tree as one flat array on the host, in the order of ``jax.tree.leaves``."""
    leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def compare(outcome: Outcome, reference: Outcome) -> Difference:
    """Difference of an outcome from the reference, which has the same precision."""
    projection = np.dot(outcome.gradient, reference.gradient)
    squared_norm = np.dot(reference.gradient, reference.gradient)
    differences = {
        name: largest_difference(getattr(outcome, name), getattr(reference, name))
        for name in ("loss", "gradient", "params", "statistics", "method_state")
    }
    return Difference(**differences, scale=float(projection / squared_norm))


def largest_difference(value: np.ndarray, reference: np.ndarray) -> float:
    """Maximum of |value - reference| divided by the maximum of |reference|; 0 if empty."""
    if not reference.size:
        return 0.0
    return float(np.abs(value - reference).max() / np.abs(reference).max())
