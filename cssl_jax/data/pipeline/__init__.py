"""Input pipelines: turn the examples of a source into batches of views on the devices."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
