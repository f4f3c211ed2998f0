"""Encoders and projection heads: Flax Linen modules whose parameters are plain dictionaries."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
