"""Augmentation policies: ``sample(key, policy) -> parameters``, ``apply(images, parameters)``."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
