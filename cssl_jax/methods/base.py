"""The contract between a method and the one training step."""

from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

PyTree = Any
Batch = dict[str, Any]


class Context(NamedTuple):
    """What a method may know besides its arguments.

    Attributes:
        step: int32 scalar, from 0.
        total_steps: Of the run.
        axis_name: Mapped axis that the batch is split over, or None.
        train: Batch statistics and random masks on.
        frozen_norm: BatchNorm uses its running statistics and leaves them as they are.
    """

    step: jax.Array
    total_steps: int
    axis_name: str | None
    train: bool = True
    frozen_norm: bool = False


class Method(Protocol):
    """An objective, with labels or without; one file in this folder implements it.

    A batch is ``{"views": {group: [n, k, ...]}, "index": [n], "key": [n, 2], "mask": [n]}``, with
    ``"label": [n]`` where there are labels; views are normalised floats and all views of an example
    lie on one device.

    The loss is ``objective`` of ``encode``. They are apart so that a batch can be encoded in parts,
    see ``step.grad_cache``: an example's outputs must not depend on the others, but through
    BatchNorm, and whatever examples have to do with each other is in ``objective``.

    A method is a value, such as a frozen dataclass: equal ones share their compiled programs.
    """

    def __hash__(self) -> int: ...

    @property
    def encoder(self) -> Any:
        """The module that is kept after training; see ``models.registry.EncoderEntry``."""
        ...

    @property
    def views(self) -> dict[str, int]:
        """Number of views per example in each group of the batch."""
        ...

    @property
    def pretrained_modules(self) -> tuple[str, ...]:
        """Names of the modules that ``adopt`` requires of a pretrained model."""
        ...

    @property
    def needs_statistics(self) -> bool:
        """True if BatchNorm layers use running statistics from the first step on."""
        ...

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        """(params, model_state, method_state) for batches shaped like this one."""
        ...

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """What the objective needs of this device's examples, and the next model_state.

        Outputs are floats [n, ...]; the model_state is replicated.
        """
        ...

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """This device's loss, whose mean over devices is the global one, and metrics (scalars).

        ``outputs`` are those of ``encode`` for all n examples of this device, and ``examples`` is
        their batch without its views. Parameters used here get their gradient too.
        """
        ...

    def after_update(
        self, params: PyTree, method_state: PyTree, aux: dict[str, Any], ctx: Context
    ) -> PyTree:
        """The next method_state, given the updated parameters.

        ``aux`` holds "outputs" (this device's), "model_state" and "metrics" (replicated).
        """
        ...

    def trainable(self, path: tuple[Any, ...], step: jax.Array) -> bool | float | jax.Array:
        """Whether, or with which fraction of the learning rate, ``step`` updates a parameter."""
        ...

    def adopt(self, model: dict[str, PyTree], pretrained: dict[str, PyTree]) -> dict[str, PyTree]:
        """The model, {"params", "model_state"}, with what can be taken over from a pretrained one.

        Each holds modules by name; what is not taken over is the very object that was given.
        """
        ...


def split_variables(modules: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(params, model_state) of what initialising each module, by name, has given."""
    params = {name: variables["params"] for name, variables in modules.items()}
    state = {name: variables.get("batch_stats", {}) for name, variables in modules.items()}
    return params, state


def run_module(
    module: nn.Module, name: str, params: PyTree, model_state: PyTree, x: jax.Array, train: bool
) -> tuple[Any, PyTree]:
    """What a module gives for ``x``, and its next part of the model_state."""
    variables = {"params": params[name], "batch_stats": model_state[name]}
    with jax.named_scope(name):  # by which traces and ``planning.kernels`` distinguish the parts
        output, updated = module.apply(variables, x, train=train, mutable=["batch_stats"])
    return output, updated.get("batch_stats", {})
