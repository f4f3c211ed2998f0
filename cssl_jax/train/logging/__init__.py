"""Writes the metrics and timings of a run."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
