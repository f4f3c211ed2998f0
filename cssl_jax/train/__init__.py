"""Training: optimizers, state, step, loop, checkpoints and metrics."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.train.hooks import Hook, Run
    from cssl_jax.train.trainer import Trainer

__all__ = [
    "Hook",
    "Run",
    "Trainer",
]
__getattr__, __dir__ = public_names(__name__)
