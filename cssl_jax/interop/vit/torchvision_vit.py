"""Names of torchvision's ``VisionTransformer`` for those of timm, and back."""

import re
from collections.abc import Mapping

import numpy as np

from cssl_jax.interop.vit import huggingface_vit
from cssl_jax.interop.vit.huggingface_vit import renamed

_START = "encoder.layers.encoder_layer_"
# timm's name -> torchvision's, outside and inside of blocks.
_OUTSIDE = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.": "conv_proj.",
    "norm.": "encoder.ln.",
    "head.": "heads.head.",
}
_INSIDE = {
    "norm1.": "ln_1.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}
# Names of the MLP in files before torchvision 0.13.
_FORMER = {"mlp.linear_1.": "mlp.fc1.", "mlp.linear_2.": "mlp.fc2."}
_BLOCK = re.compile(re.escape(_START) + r"(\d+)\.(.+)")


def timm_names(content: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, with timm's names; other names of ViTs are recognised.

    They are those of torchvision and of Hugging Face, see ``huggingface_vit.joined``.

    Example:
        >>> list(timm_names({"m.encoder.ln.bias": np.zeros(2), "other": np.zeros(1)}, "m."))
        ['norm.bias']
    """
    return {
        _to_timm(key.removeprefix(prefix)): value
        for key, value in content.items()
        if key.startswith(prefix)
    }


def torchvision_names(content: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with timm's names, with the names of torchvision.

    Example:
        >>> list(torchvision_names({"blocks.3.attn.qkv.weight": np.zeros(2)}))
        ['encoder.layers.encoder_layer_3.self_attention.in_proj_weight']
    """
    return {_to_torchvision(key): value for key, value in content.items()}


def _to_timm(key: str) -> str:
    if match := _BLOCK.fullmatch(key):
        inner = {theirs: ours for ours, theirs in _INSIDE.items()} | _FORMER
        return f"blocks.{match[1]}.{renamed(match[2], inner)}"
    outside = {theirs: ours for ours, theirs in _OUTSIDE.items()}
    return huggingface_vit.to_timm(renamed(key, outside))


def _to_torchvision(key: str) -> str:
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        return f"{_START}{match[1]}.{renamed(match[2], _INSIDE)}"
    return renamed(key, _OUTSIDE)
