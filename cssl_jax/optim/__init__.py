"""Optimizers, learning-rate schedules, tensor norms and LARS trust ratios."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.optim.optimizers import make_optimizer
    from cssl_jax.optim.registry import (
        OPTIMIZERS,
        OptimizerEntry,
        OptimizerOptions,
        optimizer_entry,
    )
    from cssl_jax.optim.schedules import make_schedule, scaled_learning_rate, warmup_cosine

__all__ = [
    "OPTIMIZERS",
    "OptimizerEntry",
    "OptimizerOptions",
    "make_optimizer",
    "make_schedule",
    "optimizer_entry",
    "scaled_learning_rate",
    "warmup_cosine",
]
__getattr__, __dir__ = public_names(__name__)
