"""Solvers of the linear probes."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
