"""Readers of encoded images: image folders, CSV lists, tar shards, parquet, TFDS, TFRecord."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
