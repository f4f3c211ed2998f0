"""Names of Hugging Face's ViT and DINOv2 models for those of timm, and back.

Both store the projections of queries, keys and values apart; timm has them in one array.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError

# timm's name -> Hugging Face's, outside of blocks.
_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "norm.": "layernorm.",
}
# Inside of blocks of both models, where ``_ATTENTION`` is one name of three.
_ATTENTION = "attn.qkv."
_SHARED = {"attn.proj.": "attention.output.dense."}
_VIT = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
_DINOV2 = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
_PARTS = ("query", "key", "value")
_START, _APART = "encoder.layer.", "attention.attention."
_BLOCK = re.compile(r"encoder\.layer\.(\d{1,3})\.(.+)")


def to_timm(key: str) -> str:
    """Timm's name of an array; queries, keys and values keep a name of their own for ``joined``.

    Example:
        >>> to_timm("encoder.layer.3.layernorm_before.bias")
        'blocks.3.norm1.bias'
        >>> to_timm("encoder.layer.3.attention.attention.key.bias")
        'blocks.3.attn.key.bias'
    """
    if match := _BLOCK.fullmatch(key):
        inner = match[2]
        if inner.startswith(_APART):
            return f"blocks.{match[1]}.attn.{inner.removeprefix(_APART)}"
        names = {theirs: ours for ours, theirs in (_SHARED | _VIT | _DINOV2).items()}
        return f"blocks.{match[1]}.{renamed(inner, names)}"
    outside = {theirs: ours for ours, theirs in _OUTSIDE.items()}
    return renamed(key, {**outside, "embeddings.register_tokens": "register_tokens"})


def joined(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights with timm's names, where queries, keys and values of a block are one array.

    Raises:
        UserError: A block has one of the three and lacks another.
    """
    found: dict[str, np.ndarray] = {}
    for key, array in weights.items():
        match = re.fullmatch(r"(.+\.attn\.)(query|key|value)\.(\w+)", key)
        if match is None:
            found[key] = array
        elif match[2] == "query":
            names = [f"{match[1]}{part}.{match[3]}" for part in _PARTS]
            if lacking := [name for name in names if name not in weights]:
                raise UserError(f"the weights lack {lacking[0]}, and have {key}")
            found[f"{match[1]}qkv.{match[3]}"] = np.concatenate([weights[name] for name in names])
        elif f"{match[1]}query.{match[3]}" not in weights:
            raise UserError(f"the weights lack {match[1]}query.{match[3]}, and have {key}")
    return found


def huggingface_names(content: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with timm's names, with the names of Hugging Face's ViT, or DINOv2 for LayerScale.

    Example:
        >>> list(huggingface_names({"blocks.3.norm1.bias": np.zeros(2)}))
        ['encoder.layer.3.layernorm_before.bias']
    """
    has_scale = any(key.endswith(".ls1.gamma") for key in content)
    names = _SHARED | (_DINOV2 if has_scale else _VIT)
    found: dict[str, np.ndarray] = {}
    for key, array in content.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        if match is None:
            found[renamed(key, _OUTSIDE)] = array
        elif match[2].startswith(_ATTENTION):
            leaf = match[2].removeprefix(_ATTENTION)
            for part, values in zip(_PARTS, np.split(array, 3), strict=True):
                found[f"{_START}{match[1]}.{_APART}{part}.{leaf}"] = np.ascontiguousarray(values)
        else:
            found[f"{_START}{match[1]}.{renamed(match[2], names)}"] = array
    return found


def huggingface_config(
    *, hidden: int, layers: int, heads: int, size: int, patch: int, channels: int, scale: float
) -> dict[str, Any]:
    """Content of config.json for ``transformers.AutoModel``.

    Args:
        hidden: Number of channels of a token.
        layers: Number of blocks.
        heads: Number of attention heads.
        size: Side of an image in pixels.
        patch: Side of a patch in pixels.
        channels: Number of image channels.
        scale: Initial value of LayerScale; 0 if there is none, which makes it a ViT.
    """
    shared = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size,
        "patch_size": patch,
        "num_channels": channels,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "dtype": "float32",
    }
    if not scale:
        own = {"architectures": ["ViTModel"], "model_type": "vit", "intermediate_size": 4 * hidden}
        return {**shared, **own}
    own = {"architectures": ["Dinov2Model"], "model_type": "dinov2", "mlp_ratio": 4}
    return {**shared, **own, "layerscale_value": scale, "use_mask_token": False}


def renamed(key: str, starts: Mapping[str, str]) -> str:
    """A key with its beginning replaced; unchanged if it has none of ``starts``."""
    for start, other in starts.items():
        if key.startswith(start):
            return other + key.removeprefix(start)
    return key
