"""Compares a recipe's training step between numbers of devices, in processes of its own."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
