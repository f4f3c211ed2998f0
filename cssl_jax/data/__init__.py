"""Where examples come from, in which order, and how they reach the device."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
