"""Training step: gradient of a batch, parameter update and training state."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.step.grad_cache import StepOptions, make_gradient
    from cssl_jax.step.state import TrainState
    from cssl_jax.step.train_step import make_train_step

__all__ = [
    "StepOptions",
    "TrainState",
    "make_gradient",
    "make_train_step",
]
__getattr__, __dir__ = public_names(__name__)
