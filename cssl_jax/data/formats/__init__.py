"""Readers of encoded examples: image folders, tar shards, parquet, TFDS, TFRecord."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
