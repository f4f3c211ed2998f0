"""What a training run is made of, besides its config: one replicated pytree."""

from typing import Any

import flax.struct
import jax
import numpy as np
import optax

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """All that a step reads and writes; replicated, donated, never stacked per device.

    Attributes:
        step: int32 scalar, steps done, skipped ones included; also the whole state of the data.
        params: {"encoder": ..., "projector": ...}, at least float32.
        model_state: The same keys; running statistics of BatchNorm.
        method_state: What a method carries besides (momentum copy, queue); empty for SimCLR.
        opt_state: Of the optimizer.
        skipped: int32 [2], steps whose update was left out as not finite: in all, and the last in a
            row.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    method_state: PyTree
    opt_state: PyTree
    skipped: jax.Array | np.ndarray = flax.struct.field(
        default_factory=lambda: np.zeros(2, np.int32)
    )

    @property
    def model(self) -> dict[str, PyTree]:
        """What an encoder is made of: {"params", "model_state"}."""
        return {"params": self.params, "model_state": self.model_state}


def is_schedule(node: Any) -> bool:
    """Whether a part of an optimizer's state is the place of a learning-rate schedule.

    It follows the run, whose length is fixed, while moments count the updates that were made.
    """
    return isinstance(node, optax.ScaleByScheduleState)
