"""Modalities: what turns examples of one kind into views and into an encoder's input."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.modalities.base import Baseline, Modality
    from cssl_jax.modalities.registry import modality_entry

__all__ = [
    "Baseline",
    "Modality",
    "modality_entry",
]
__getattr__, __dir__ = public_names(__name__)
