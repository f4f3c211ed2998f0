"""Data sets in memory or on a disk, opened by one string."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
