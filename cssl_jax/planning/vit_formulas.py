"""Layers of Vision Transformers for the closed formulas of ``plan``; see ``sequence_formulas``.

They share no code with the models, so that tests can check one against the other.
"""

import math

from cssl_jax.config import ModelConfig
from cssl_jax.planning.sequence_formulas import Layer

HEAD = 64  # channels per head at width 1
# Encoder: (number of blocks, channels at width 1), from arXiv 2010.11929, table 1, and timm.
VITS = {
    "vit_micro": (2, 192),
    "vit_tiny": (12, 192),
    "vit_small": (12, 384),
    "vit_base": (12, 768),
    "vit_large": (24, 1024),
}


def vit_layers(
    model: ModelConfig, size: int, channels: int, visible: float = 1.0
) -> tuple[list[Layer], int]:
    """(patch projection and blocks of a ViT, width of its features).

    Args:
        model: Encoder and its options.
        size: Side of a view in pixels, a multiple of ``model.patch``.
        channels: Channels of a view.
        visible: Fraction of the patches that the blocks compute.

    Raises:
        KeyError: The encoder is not in ``VITS``.
    """
    blocks, hidden = VITS[model.encoder]
    unit = math.lcm(model.heads or hidden // HEAD, 4)
    width = max(1, round(hidden * model.width / unit)) * unit
    has_token = model.pool == "token"
    patches = (size // model.patch) ** 2
    tokens = math.floor(patches * visible + 1e-9) + has_token
    kernel = model.patch**2 * channels * width
    # Bias, class token, last norm, and positions where they are learned.
    vectors = width * (
        1 + has_token + 2 + (patches + has_token if model.positions == "learned" else 0)
    )
    projection = 2 * kernel * patches
    layers = [Layer(kernel + vectors, projection, first=projection, block=False)]
    # qkv, output, two layers of the MLP; biases, two norms, LayerScale.
    weights = 12 * width**2
    biases = (9 + 4 + 2 * bool(model.layer_scale)) * width
    scores = 2 * 2 * tokens**2 * width  # query times key, weights times value
    layers += [Layer(weights + biases, 2 * weights * tokens + scores)] * blocks
    return layers, width
