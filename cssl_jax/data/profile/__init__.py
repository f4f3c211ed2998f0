"""Measures each stage of an input pipeline and reports the one that limits it."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
