"""The training step: gradient of a batch, update, and the state that they carry."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
