"""Evaluation protocols on frozen features, each a pure function of arrays."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
