"""Log of the augmentation parameters of a run's views, and their reconstruction from the seed."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
