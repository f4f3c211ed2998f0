"""Encoders of text: trees {"tokens": int [n, T], "length": int32 [n]}."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.models.text.bert import Bert

__all__ = ["Bert"]
__getattr__, __dir__ = public_names(__name__)
