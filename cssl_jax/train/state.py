"""What a training run is made of, besides its config: one replicated pytree."""

from typing import Any

import flax.struct
import jax

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """All that a step reads and writes; replicated, donated, never stacked per device.

    Attributes:
        step: int32 scalar, optimizer updates done; also the whole state of the data.
        params: {"encoder": ..., "projector": ...}, at least float32.
        model_state: The same keys; running statistics of BatchNorm.
        method_state: What a method carries besides (momentum copy, queue); empty for SimCLR.
        opt_state: Of the optimizer.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    method_state: PyTree
    opt_state: PyTree

    @property
    def model(self) -> dict[str, PyTree]:
        """What an encoder is made of: {"params", "model_state"}."""
        return {"params": self.params, "model_state": self.model_state}
