"""Sheet of images with the patches of a Vision Transformer: their principal axes, and attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from cssl_jax.augment.image.contact_sheet import Example, View, draw_sheet
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.report.figures.reconstructions import pixels_of, prepared_images

HEADS = 4  # maximum number of heads whose attention is shown
_TAILS = (2, 98)  # percentiles of a principal axis that become black and full colour


def has_token_maps(encoder: Encoder) -> bool:
    """True if the encoder of a run is a Vision Transformer."""
    return hasattr(encoder.method.encoder, "patch")


def token_sheet(encoder: Encoder, source: Source) -> PIL.Image.Image:
    """Draws images with maps of their patches.

    The first map shows the three principal axes of the patches of all images as red, green and
    blue, as DINOv2 does (arXiv 2304.07193, fig. 1). The others show how much the class token of the
    last block attends to each patch, a map per head (arXiv 2104.14294, fig. 1).

    Args:
        encoder: Encoder of a run for which ``has_token_maps`` is True.
        source: Images of the sheet, one per row.

    Returns:
        RGB image of the sheet, a row per image.
    """
    spec, vit = encoder.spec, encoder.method.encoder
    assert isinstance(spec, ImageSpec)
    images = prepared_images(encoder, source)
    variables = jax.device_get(encoder_variables(encoder.model))

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        return vit.apply(variables, images, train=False, mutable=["attention"])

    outputs, kept = run(variables, images)
    side = spec.size // vit.patch
    colours = principal_colours(np.asarray(outputs["tokens"], np.float64))
    maps = [colours.reshape(len(colours), side, side, 3)]
    titles = ["image", "principal axes"]
    if vit.pool == "token":
        attention = class_attention(kept["attention"][f"block{vit.layers}"])[:, :HEADS]
        for head in range(attention.shape[1]):
            maps.append(attention[:, head].reshape(-1, side, side, 1).repeat(3, axis=3))
            titles.append(f"attention, head {head + 1}")
    originals = pixels_of(images, spec)
    examples = [
        Example(pixels, [], [View(_enlarged(x[i], spec.size), None, []) for x in maps])
        for i, pixels in enumerate(originals)
    ]
    title = f"Patches by the checkpoint of step {encoder.step:,}"
    subtitle = f"{side} x {side} patches of {vit.patch} px per image"
    return draw_sheet(examples, title, subtitle, titles)


def principal_colours(tokens: np.ndarray) -> np.ndarray:
    """Three principal axes of all patches as colours.

    Args:
        tokens: float [n, T, D].

    Returns:
        float [n, T, 3] within [0, 1]; axes that do not exist are 0.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    flat = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    scores = np.zeros((len(flat), 3))
    found = flat @ axes[:3].T
    low, high = np.percentile(found, _TAILS, axis=0)
    spread = np.where(high > low, high - low, 1)
    scores[:, : found.shape[1]] = np.clip((found - low) / spread, 0, 1)
    return scores.reshape(*tokens.shape[:2], 3)


def class_attention(kept: Any) -> np.ndarray:
    """Attention of the class token to the patches, divided by its largest value of each map.

    Args:
        kept: Collection "attention" of a ``TransformerBlock``: {"query", "key"}, each a tuple with
            one array [n, T, heads, c], the class token first.

    Returns:
        float [n, heads, T - 1].
    """
    query, key = (jnp.asarray(kept[name][0], jnp.float32) for name in ("query", "key"))
    scores = jnp.einsum("nhc,nkhc->nhk", query[:, 0], key) / np.sqrt(query.shape[-1])
    weights = np.asarray(jax.nn.softmax(scores, axis=-1), np.float64)[:, :, 1:]
    found: np.ndarray = weights / weights.max(axis=-1, keepdims=True)
    return found


def _enlarged(found: np.ndarray, size: int) -> np.ndarray:
    """A map [rows, columns, 3] within [0, 1] as uint8 pixels of an image of this size."""
    scaled = np.round(255 * found).astype(np.uint8)
    return scaled.repeat(size // len(found), axis=0).repeat(size // len(found), axis=1)
