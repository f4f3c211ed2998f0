"""What the encoders of sequences share: their input, and their registry entries."""

from typing import Any, ClassVar

from cssl_jax.models.base import EncoderModule, class_entry
from cssl_jax.models.registry import EncoderEntry


class SequenceEncoder(EncoderModule):
    """Base class of the encoders of sequences.

    A subclass is called as ``(x, train=False, keys=None, keep=None)`` with x = {"values": float
    [n, T, C], "length": int32 [n]}. Values are normalised. Values from a length on may hold
    anything: they and their number have no influence. ``keep``, bool [n, T], is False at further
    steps whose values are not seen. It returns "features", float32 or wider [n, D], "stages", and
    where the number of steps is preserved "tokens" [n, T, d], which are 0 at padding.

    Attributes:
        encodes_omitted: True if a step that ``keep`` omits still has a token; a constant per class.
    """

    encodes_omitted: ClassVar[bool] = False


def sequence_entry(
    cls: type[SequenceEncoder], modalities: tuple[str, ...] = ("series", "audio"), **fixed: Any
) -> EncoderEntry:
    """Registry entry of an encoder of sequences, see ``class_entry``."""
    return class_entry(cls, modalities, **fixed)
