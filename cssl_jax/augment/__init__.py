"""Augmentation policies: ``sample(key, policy) -> parameters``, ``apply(images, parameters)``."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.augment.base import Policy
    from cssl_jax.augment.image.batched import apply_views
    from cssl_jax.augment.image.policy import ImagePolicy, sample_views
    from cssl_jax.augment.view_group import ViewGroup

__all__ = [
    "ImagePolicy",
    "Policy",
    "ViewGroup",
    "apply_views",
    "sample_views",
]
__getattr__, __dir__ = public_names(__name__)
