"""Log of the augmentation parameters drawn for a run's views, and drawing them again."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
