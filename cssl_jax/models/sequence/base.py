"""What the encoders of sequences share: fields that a run sets, and their registry entries."""

import dataclasses
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax.numpy as jnp

from cssl_jax.models.normalization import NormGroups
from cssl_jax.models.registry import EncoderEntry


class SequenceEncoder(nn.Module):
    """Base class of the encoders of sequences.

    A subclass is called as ``(x, train=False, keys=None, keep=None)`` with x = {"values": float
    [n, T, C], "length": int32 [n]}. Values are normalised. Values from a length on may hold
    anything: they and their number have no influence. ``keep``, bool [n, T], is False at further
    steps whose values are not seen. It returns "features", float32 or wider [n, D], "stages", and
    where the number of steps is preserved "tokens" [n, T, d], which are 0 at padding.

    Attributes:
        encodes_omitted: True if a step that ``keep`` omits still has a token; a constant per class.
        width: Multiplier of every channel count.
        axis_name: Mapped axis of cross-replica BatchNorm; None on a single device.
        norm_groups: Groups of the global batch with separate BatchNorm statistics, or their number.
        norm_momentum: Fraction of BatchNorm's running statistics that is retained per step.
        remat: True to recompute a block's activations in the backward pass instead of storing them.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    encodes_omitted: ClassVar[bool] = False

    width: float = 1.0
    axis_name: str | None = None
    norm_groups: int | NormGroups = 1
    norm_momentum: float = 0.9
    remat: bool = False
    dtype: jnp.dtype | None = None

    def with_live_branches(self) -> Self:
        """This encoder: each of its branches contributes to the output from the start."""
        return self

    def block(self, cls: Any) -> Any:
        """The class of a block, whose activations are recomputed if ``remat`` is True."""
        # The last argument of every block's call is ``train``, which must stay a Python bool.
        return nn.remat(cls, static_argnums=(3,)) if self.remat else cls

    def channels(self, base: int) -> int:
        """Number of channels: the multiple ``width`` of a base, at least 1."""
        return max(1, round(base * self.width))


def sequence_entry(
    cls: type[SequenceEncoder], modalities: tuple[str, ...] = ("series", "audio"), **fixed: Any
) -> EncoderEntry:
    """Registry entry of an encoder; options without a field of that name are ignored.

    Args:
        cls: Class of the encoder.
        modalities: Names of the modalities whose examples it takes.
        fixed: Values of fields that the name of the encoder stands for.
    """
    names = {field.name for field in dataclasses.fields(cls)}

    def build(**options: Any) -> SequenceEncoder:
        return cls(**{name: value for name, value in options.items() if name in names}, **fixed)

    return EncoderEntry(build=build, modalities=modalities)
