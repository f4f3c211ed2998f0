"""Training state: one replicated pytree that holds all arrays of a run."""

from typing import Any

import flax.struct
import jax
import numpy as np
import optax

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """Arrays that a step reads and writes; replicated and donated, never stacked per device.

    Attributes:
        step: Number of completed steps, skipped ones included, int32 scalar. It determines the
            position in the data as well.
        params: Parameters {"encoder": ..., "projector": ...}, float32 or wider.
        model_state: Running statistics of BatchNorm, with the keys of ``params``.
        method_state: Additional state of a method (momentum copy, queue); empty for SimCLR.
        opt_state: State of the optimizer.
        skipped: Numbers of steps whose non-finite update was skipped, int32 [2]: total, and
            consecutive up to the current step.
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
        """Arrays that define the encoder and the heads: {"params", "model_state"}."""
        return {"params": self.params, "model_state": self.model_state}


def is_schedule(node: Any) -> bool:
    """True if a node of the optimizer state is the counter of a learning-rate schedule.

    A schedule counts all steps, because the length of the run is fixed. Moments count only the
    updates that were applied.
    """
    return isinstance(node, optax.ScaleByScheduleState)
