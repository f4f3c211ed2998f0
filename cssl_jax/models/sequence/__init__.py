"""Encoders of sequences: trees {"values": float [n, T, C], "length": int32 [n]}."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
    from cssl_jax.models.sequence.conv_gru import ConvGRU
    from cssl_jax.models.sequence.dilated import DilatedConvolutions
    from cssl_jax.models.sequence.recurrent import RecurrentEncoder
    from cssl_jax.models.sequence.resnets import ResNet1d, SpectrogramResNet
    from cssl_jax.models.sequence.transformer import Transformer

__all__ = [
    "ConvGRU",
    "DilatedConvolutions",
    "RecurrentEncoder",
    "ResNet1d",
    "SequenceEncoder",
    "SpectrogramResNet",
    "Transformer",
    "sequence_entry",
]
__getattr__, __dir__ = public_names(__name__)
