"""Trained and untrained encoders of runs, and their features."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
