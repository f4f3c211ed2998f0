"""Text augmentation: parameters sampled from one policy, applied to tokens in compiled JAX."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
