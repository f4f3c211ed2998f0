"""Logging of a run: metrics, timings, boards, progress bar and console messages."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
