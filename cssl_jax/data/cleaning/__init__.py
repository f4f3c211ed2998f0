"""Checks of a set of images before training: broken files, duplicates, splits."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
