"""Weights in from, and out to, other libraries."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
