"""Data sources, example order and input pipelines that bring batches to the devices."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.data.input_spec import ImageSpec, InputSpec
    from cssl_jax.data.pipeline.base import Pipeline
    from cssl_jax.data.sampler import Sampler
    from cssl_jax.data.sources.base import ArraySource, Images, Source
    from cssl_jax.data.sources.open import load_source
    from cssl_jax.data.sources.segmentation_masks import MaskedSource, load_masks

__all__ = [
    "ArraySource",
    "ImageSpec",
    "Images",
    "InputSpec",
    "MaskedSource",
    "Pipeline",
    "Sampler",
    "Source",
    "load_masks",
    "load_source",
]
__getattr__, __dir__ = public_names(__name__)
