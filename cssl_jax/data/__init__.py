"""Data sources, example order and input pipelines that bring batches to the devices."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
