"""How good an encoder is, measured on frozen features."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
