"""Weights in from, and out to, other libraries."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.interop.torchvision import from_torchvision, to_torchvision
    from cssl_jax.interop.vit.timm_vit import from_timm, to_timm

__all__ = [
    "from_timm",
    "from_torchvision",
    "to_timm",
    "to_torchvision",
]
__getattr__, __dir__ = public_names(__name__)
