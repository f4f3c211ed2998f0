"""Audio augmentation: parameters sampled from one policy, applied in compiled JAX."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
