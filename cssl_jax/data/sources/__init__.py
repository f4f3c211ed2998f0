"""Data sources: arrays in memory and encoded images on disk, opened by one string."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
