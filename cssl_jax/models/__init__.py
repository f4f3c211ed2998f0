"""Encoders and projection heads: Flax Linen modules whose parameters are plain dictionaries."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.models.dropout import Dropout, DropPath, view_keys
    from cssl_jax.models.heads import MLP, Layer, projection_head
    from cssl_jax.models.normalization import BatchNorm
    from cssl_jax.models.pooling import max_pool
    from cssl_jax.models.registry import ENCODERS, EncoderEntry, build_encoder, encoder_entry
    from cssl_jax.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = [
    "ENCODERS",
    "MLP",
    "BasicBlock",
    "BatchNorm",
    "Bottleneck",
    "DropPath",
    "Dropout",
    "EncoderEntry",
    "Layer",
    "ResNet",
    "build_encoder",
    "encoder_entry",
    "max_pool",
    "projection_head",
    "view_keys",
]
__getattr__, __dir__ = public_names(__name__)
