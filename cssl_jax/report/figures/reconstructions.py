"""Sheet of images, their visible patches, and what a masked autoencoder makes of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from cssl_jax.augment.image.contact_sheet import Example, View, draw_sheet
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.load import Encoder

ROWS = 6  # images of a sheet


def has_reconstructions(encoder: Encoder) -> bool:
    """True if the method of a run hides patches and predicts them."""
    return hasattr(encoder.method, "reconstruct")


def reconstruction_sheet(encoder: Encoder, source: Source, seed: int) -> PIL.Image.Image:
    """Draws the first images of a source, their visible patches and the reconstructions.

    Args:
        encoder: Encoder of a run for which ``has_reconstructions`` is True.
        source: Images of at least one row.
        seed: Seed of the patches that are hidden.

    Returns:
        RGB image of the sheet, a row per image.
    """
    spec, method = encoder.spec, encoder.method
    assert isinstance(spec, ImageSpec)
    images = first_images(encoder, source)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), len(images)))
    batch = {"views": {"main": images[:, None]}, "key": keys}
    model = jax.device_get(encoder.model)
    reconstruct = jax.jit(method.reconstruct)  # type: ignore[attr-defined]
    seen, rebuilt, errors = reconstruct(model["params"], model["model_state"], batch)
    columns = [pixels_of(x, spec) for x in (images, seen, rebuilt)]
    examples = [
        _row(original, visible, made, float(error))
        for original, visible, made, error in zip(*columns, np.asarray(errors), strict=True)
    ]
    title = f"Reconstructions by the checkpoint of step {encoder.step:,}"
    subtitle = "image, what the encoder sees of it, and the decoder's prediction of the rest"
    return draw_sheet(examples, title, subtitle)


def first_images(encoder: Encoder, source: Source) -> jax.Array:
    """The first images of a source as the encoder takes them, normalised float [n, H, W, C]."""
    chosen = source.take(np.arange(min(ROWS, len(source))))
    arrays = encoder.modality.to_arrays(chosen, encoder.spec)
    block = next(iter(arrays.blocks(len(chosen), **encoder.spec.reading)))
    return jnp.asarray(encoder.modality.prepare(block, encoder.spec))


def _row(original: np.ndarray, visible: np.ndarray, made: np.ndarray, error: float) -> Example:
    height, width = original.shape[:2]
    outline = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    views = [
        View(visible, outline, ["visible patches"]),
        View(made, outline, ["reconstruction", f"mean squared error {error:.3f}"]),
    ]
    return Example(original, [f"{width} x {height} pixels"], views)


def pixels_of(images: jax.Array, spec: ImageSpec) -> np.ndarray:
    """Normalised images as uint8 [n, H, W, C]."""
    scaled = np.asarray(images, np.float64) * np.array(spec.std) + np.array(spec.mean)
    pixels: np.ndarray = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return pixels
