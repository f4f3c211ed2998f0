"""What encoders share: fields that a run sets, and registry entries of their classes."""

import dataclasses
from typing import Any, Self

import flax.linen as nn
import jax.numpy as jnp

from cssl_jax.models.normalization import NormGroups
from cssl_jax.models.registry import EncoderEntry


class EncoderModule(nn.Module):
    """Base class of encoders; see ``models.registry.EncoderEntry`` for what they provide.

    Attributes:
        width: Multiplier of every channel count.
        axis_name: Mapped axis of cross-replica BatchNorm; None on a single device.
        norm_groups: Groups of the global batch with separate BatchNorm statistics, or their number.
        norm_momentum: Fraction of BatchNorm's running statistics that is retained per step.
        remat: True to recompute a block's activations in the backward pass instead of storing them.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

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


def class_entry(
    cls: type[EncoderModule],
    modalities: tuple[str, ...],
    *,
    reduced: str = "",
    options: tuple[str, ...] = (),
    **fixed: Any,
) -> EncoderEntry:
    """Registry entry of an encoder; options without a field of that name are ignored.

    Args:
        cls: Class of the encoder.
        modalities: Names of the modalities whose examples it takes.
        reduced: Name of a smaller encoder with the same kinds of layers; "" is the encoder itself.
        options: Names of the fields of config section ``model`` that only some encoders take.
        fixed: Values of fields that the name of the encoder stands for.
    """
    names = {field.name for field in dataclasses.fields(cls)}

    def build(**given: Any) -> EncoderModule:
        return cls(**{name: value for name, value in given.items() if name in names}, **fixed)

    return EncoderEntry(build=build, reduced=reduced, modalities=modalities, options=options)
