"""Image augmentation: parameters sampled from one policy, applied on the device or on the host."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
