"""Vision Transformers: encoders of patches of images."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.models.vit.positions import position_table
    from cssl_jax.models.vit.vit import ViT

__all__ = ["ViT", "position_table"]
__getattr__, __dir__ = public_names(__name__)
