"""Augmentation policies: ``sample(key, policy) -> parameters`` and ``apply(x, parameters)``."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
