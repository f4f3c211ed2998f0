"""Optimizers, their schedules and trust ratios."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
