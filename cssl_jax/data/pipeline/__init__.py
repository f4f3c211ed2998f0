"""Input pipelines: from examples of a source to batches of views on the devices."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
