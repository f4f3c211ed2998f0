"""Domain adaptation as an experiment: settings, seeds, tables."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
