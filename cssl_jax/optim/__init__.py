"""Optimizers, learning-rate schedules, tensor norms and LARS trust ratios."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
