"""One file a self-supervised method; SimCLR first."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
