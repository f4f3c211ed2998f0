"""The contract between a method and the one training step."""

from typing import Any, NamedTuple, Protocol

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
    """

    step: jax.Array
    total_steps: int
    axis_name: str | None
    train: bool = True


class Method(Protocol):
    """A self-supervised objective; one file in this folder implements it.

    A batch is ``{"views": {group: [n, k, ...]}, "index": [n], "key": [n, 2], "mask": [n]}``, with
    ``"label": [n]`` where there are labels; views are normalised floats and all views of an example
    lie on one device.
    """

    @property
    def views(self) -> dict[str, int]:
        """Views an example that each group of the batch must hold."""
        ...

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        """(params, model_state, method_state) for batches shaped like this one."""
        ...

    def loss(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, Any]]:
        """This device's loss, and aux with "model_state" (replicated) and "metrics" (scalars)."""
        ...

    def after_update(
        self, params: PyTree, method_state: PyTree, aux: dict[str, Any], ctx: Context
    ) -> PyTree:
        """The next method_state, given the updated parameters."""
        ...

    def trainable(self, path: tuple[Any, ...], step: jax.Array) -> bool | jax.Array:
        """Whether the parameter at ``path`` is updated at ``step``."""
        ...
