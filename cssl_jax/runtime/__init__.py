"""Processes, devices and the mesh: all code that depends on the machine."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
