"""Builds from a config what a run needs: data, pipeline, method, optimizer, first state."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
