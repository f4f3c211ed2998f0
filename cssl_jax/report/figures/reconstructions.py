"""Sheet of images, their visible patches, and what a masked autoencoder makes of the others."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from cssl_jax.augment.image.contact_sheet import Example, View, draw_sheet
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.load import Encoder


def has_reconstructions(encoder: Encoder) -> bool:
    """True if the method of a run hides patches and predicts them."""
    return hasattr(encoder.method, "reconstruct")


def reconstruction_sheet(encoder: Encoder, source: Source, seed: int) -> PIL.Image.Image:
    """Draws images, their visible patches and the reconstructions.

    Args:
        encoder: Encoder of a run for which ``has_reconstructions`` is True.
        source: Images of the sheet, one per row.
        seed: Seed of the patches that are hidden.

    Returns:
        RGB image of the sheet, a row per image.
    """
    spec, method = encoder.spec, cast(Any, encoder.method)
    assert isinstance(spec, ImageSpec)
    images = prepared_images(encoder, source)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), len(images)))
    batch = {"views": {"main": images[:, None]}, "key": keys}
    model = jax.device_get(encoder.model)
    reconstruct = jax.jit(method.reconstruct)
    seen, rebuilt, errors = reconstruct(model["params"], model["model_state"], batch)
    columns = [pixels_of(x, spec) for x in (images, seen, rebuilt)]
    examples = [
        Example(
            original,
            [],
            [View(visible, None, []), View(made, None, [f"squared error {error:.3f}"])],
        )
        for original, visible, made, error in zip(*columns, np.asarray(errors), strict=True)
    ]
    return draw_sheet(
        examples,
        f"Reconstructions by the checkpoint of step {encoder.step:,}",
        "squared error: mean over the pixels of the hidden patches, as in the loss",
        ("image", "visible patches", "reconstruction"),
    )


def prepared_images(encoder: Encoder, source: Source) -> jax.Array:
    """All images of a source as the encoder takes them, normalised float [n, H, W, C]."""
    arrays = encoder.modality.to_arrays(source, encoder.spec)
    block = next(iter(arrays.blocks(len(source), **encoder.spec.reading)))
    return jnp.asarray(encoder.modality.prepare(block, encoder.spec))


def pixels_of(images: jax.Array, spec: ImageSpec) -> np.ndarray:
    """Normalised images as uint8 [n, H, W, C]."""
    scaled = np.asarray(images, np.float64) * np.array(spec.std) + np.array(spec.mean)
    pixels: np.ndarray = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return pixels
