"""The contract between a method and the one training step."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.models.dropout import view_keys
from cssl_jax.runtime import spmd

PyTree = Any
Batch = dict[str, Any]
_STEP = 0x73746570  # separates the keys of steps from those of epochs and examples


class Context(NamedTuple):
    """Facts about the current step that a method may use.

    Attributes:
        step: Number of completed steps, int32 scalar.
        total_steps: Number of steps of the run.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        train: True if batch statistics and random masks are used.
        frozen_norm: True if BatchNorm uses its running statistics without updating them.
        steps_per_epoch: Number of steps per epoch, for schedules that are stated in epochs.
        seed: Seed of the run, from which ``key`` is derived.
        micro_batches: Number of micro-batches that the batch is encoded in.
    """

    step: jax.Array
    total_steps: int
    axis_name: str | None
    train: bool = True
    frozen_norm: bool = False
    steps_per_epoch: int = 1
    seed: int = 0
    micro_batches: int = 1

    def key(self, purpose: int) -> jax.Array:
        """Random key of this step and purpose, identical on all devices.

        Args:
            purpose: Number that separates the draws of one step from each other.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), _STEP)
        return jax.random.fold_in(jax.random.fold_in(key, self.step), purpose)

    def global_rows(self, x: jax.Array) -> jax.Array:
        """Gathers the rows of all devices in the order of the global batch, [n, ...] -> [N, ...].

        The order does not depend on the number of devices and micro-batches. A queue needs it, and
        so does everything that is drawn over positions in the batch. Differentiable.
        """
        return spmd.global_rows(x, self.axis_name, self.micro_batches)


class StepOutputs(NamedTuple):
    """Results of a step's gradient that ``Method.after_update`` may use.

    Attributes:
        metrics: Metrics of the objective, scalars averaged over the devices.
        model_state: Next running statistics, replicated.
        outputs: Outputs of ``encode`` for this device's examples, [n, ...].
        targets: Targets of ``Method.targets`` for this device's examples, [n, ...].
        target_state: Second result of ``Method.targets``, averaged over micro-batches.
        carry: Third result of ``Method.objective``.
        examples: Batch of this device without its views.
    """

    metrics: dict[str, Any]
    model_state: PyTree
    outputs: PyTree
    targets: PyTree
    target_state: PyTree
    carry: PyTree
    examples: Batch


class Method(abc.ABC):
    """An objective, with labels or without; one file in this package implements one method.

    A batch is ``{"views": {group: [n, k, ...]}, "index": [n], "key": [n, 2], "mask": [n]}``, with
    ``"label": [n]`` where there are labels, and ``"drawn": {group: {name: [n, k, ...]}}`` where a
    group keeps sampled parameters. The views of a group are normalised floats, or a tree of arrays
    [n, k, ...] such as {"values", "length"}. All views of an example are on the same device.

    One step computes, in this order:

    1. ``targets`` of the batch, without gradient;
    2. ``objective`` of ``encode``, and its gradient with respect to the parameters;
    3. the update of the parameters, followed by ``project``;
    4. ``after_update``, which gives the next ``method_state``.

    A step with a non-finite loss, gradient or method_state changes none of the three states.

    ``encode`` and ``objective`` are separate so that a batch can be encoded in micro-batches, see
    ``step.grad_cache``. An example's outputs must depend on other examples through BatchNorm only,
    and all relations between examples belong into ``objective``.

    A method is a value, such as a frozen dataclass: identical methods share compiled programs.
    """

    #: Module that is kept after training; see ``models.registry.EncoderEntry``.
    encoder: Any

    #: True if the loss is a mean over examples, given their targets and the method_state.
    #: Micro-batches then need one encoding pass instead of the two of GradCache, and ``carry`` is
    #: averaged over the micro-batches.
    separable: bool = False

    #: Trained method that this one is trained with. Its variables {"params", "model_state"} are
    #: ``method_state["teacher"]`` in every step; ``start`` does not make them. None: there is none.
    teacher: "Method | None" = None

    @property
    @abc.abstractmethod
    def views(self) -> Mapping[str, ViewGroup]:
        """View groups of the batch by name: number, size and policy of their views.

        The first group stands for all where only one can be used, as in health metrics.
        """

    @abc.abstractmethod
    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """(params, model_state) for batches shaped like this one, modules by name.

        The module "encoder" is kept after training.
        """

    @abc.abstractmethod
    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Encodes this device's examples.

        Returns:
            (outputs, next model_state). Outputs are floats [n, ...], one row per example. The
            model_state is replicated.
        """

    @abc.abstractmethod
    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples.

        Args:
            params: Parameters. Those that are used here receive their gradient as well.
            method_state: State of the method before this step.
            outputs: Outputs of ``encode`` for all n examples of this device.
            examples: Batch without its views, and "targets" from ``targets``.
            ctx: Facts about the step.

        Returns:
            (loss, metrics, carry). The mean of the losses over the devices is the loss of the
            global batch. Metrics are scalars, which are averaged over the devices. The carry is
            given to ``after_update`` and must be identical on all devices, for example gathered
            rows or sums over the batch; {} if there is nothing to hand on.
        """

    @property
    def pretrained_modules(self) -> tuple[str, ...]:
        """Names of the modules that ``adopt`` requires of a pretrained model."""
        return ("encoder",)

    @property
    def needs_statistics(self) -> bool:
        """True if BatchNorm layers use running statistics from the first step on."""
        return False

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """First method_state, for these initial or pretrained weights.

        Momentum copies are made here, with ``copied``: the arrays of a state are donated to the
        step, so that none may occur twice.
        """
        return {}

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """What the objective compares the outputs with, computed without gradient.

        Returns:
            (targets, target_state). Targets are arrays [n, ...], one row per example. The
            target_state holds replicated floats, such as the next running statistics of a momentum
            encoder.
        """
        return {}, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """Next method_state, given the updated parameters; identical on all devices."""
        return method_state

    def project(self, params: PyTree, ctx: Context) -> PyTree:
        """Imposes constraints on the updated parameters, such as rows of norm 1."""
        return params

    def evaluated(
        self, params: PyTree, model_state: PyTree, method_state: PyTree
    ) -> dict[str, PyTree]:
        """The model that is evaluated, exported and saved: {"params", "model_state"} by module.

        It selects subtrees of its arguments and computes nothing, so that checkpoints can store
        every array once. It has a module "encoder".
        """
        return {"params": params, "model_state": model_state}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """How the optimizer treats a parameter, by its path in ``params``."""
        return ParameterGroup()

    def adopt(self, model: dict[str, PyTree], pretrained: dict[str, PyTree]) -> dict[str, PyTree]:
        """The model with the modules of a pretrained one: its encoder, and others of equal shapes.

        Args:
            model: {"params", "model_state"} of modules by name.
            pretrained: The same of the pretrained model.

        Returns:
            {"params", "model_state"}. A module that is not copied is the very object of ``model``.
        """
        adopted = {part: dict(values) for part, values in model.items()}
        for name in model["params"]:
            theirs = {part: pretrained[part].get(name) for part in adopted}
            ours = {part: values.get(name) for part, values in adopted.items()}
            if name == "encoder" or _shapes(ours) == _shapes(theirs):
                for part, values in adopted.items():
                    if name in values:
                        values[name] = theirs[part]
        return adopted


def copied(tree: PyTree) -> PyTree:
    """Copies of the arrays of a tree, in new buffers, also inside of a compiled function.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"weights": jnp.ones(2)}
        >>> copied(tree)["weights"] is tree["weights"]
        False
    """
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def flat_views(views: PyTree) -> PyTree:
    """[n, k, ...] -> [n k, ...], an example's views together, as BatchNorm groups need them."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), views)


def mask_keys(batch: Batch, views: int, first: int = 0) -> jax.Array | None:
    """Keys uint32 [n views, 2] of an encoder's random masks, for rows as of ``flat_views``.

    ``first`` is the number of the first view, see ``view_keys``. None for a batch without keys, as
    for initialisation.
    """
    return view_keys(batch["key"], views, first) if "key" in batch else None


def split_variables(modules: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(params, model_state) from the initial variables of each module, by name."""
    params = {name: variables.get("params", {}) for name, variables in modules.items()}
    state = {name: variables.get("batch_stats", {}) for name, variables in modules.items()}
    return params, state


def run_module(
    module: nn.Module,
    name: str,
    params: PyTree,
    model_state: PyTree,
    x: Any,
    train: bool,
    keys: jax.Array | None = None,
    keep: jax.Array | None = None,
) -> tuple[Any, PyTree]:
    """(output of a module for ``x``, its part of the next model_state).

    ``keys`` and ``keep`` are those of ``models.registry.EncoderEntry``. None is not passed on, so
    that modules without these arguments, such as heads, need not accept them.
    """
    optional = {"keys": keys, "keep": keep}
    given: dict[str, Any] = {
        argument: value for argument, value in optional.items() if value is not None
    }
    variables = {"params": params[name], "batch_stats": model_state[name]}
    with jax.named_scope(
        name
    ):  # by which traces and ``planning.targets.kernels`` attribute operations
        output, updated = module.apply(variables, x, train=train, mutable=["batch_stats"], **given)
    return output, updated.get("batch_stats", {})


def _shapes(variables: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, variables)
