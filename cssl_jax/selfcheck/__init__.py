"""Checks in child processes that a recipe's step does not depend on the number of devices."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
