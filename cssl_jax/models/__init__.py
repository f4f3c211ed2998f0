"""Encoders and heads, as Linen modules over plain dict parameters."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
