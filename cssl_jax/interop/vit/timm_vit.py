"""ViT weights to and from timm's names and layouts; NumPy only, without torch and timm."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError

# timm's module inside a block -> ours.
_MODULES = {
    "norm1": "norm1",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "norm2": "norm2",
    "mlp.fc1": "mlp1",
    "mlp.fc2": "mlp2",
}
_SCALES = {"ls1.gamma": "scale1", "ls2.gamma": "scale2"}  # LayerScale
_BLOCK = re.compile(r"blocks\.(\d{1,3})\.(.+)")
_HEADS = ("head.weight", "head.bias")


def from_timm(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of our ViT from the state dict of timm's ``VisionTransformer``.

    The classifier ``head.*`` is omitted. Dtypes are kept. A table of positions becomes a learned
    one, whether timm's file trained it or not.

    Args:
        state_dict: Key -> array. ``fc_norm`` of models without a class token becomes ``norm``.

    Returns:
        {"params": ..., "batch_stats": {}}.

    Raises:
        UserError: A key is no weight of such a ViT, or has a wrong number of axes.

    Example:
        >>> from_timm({"cls_token": np.ones((1, 1, 2))})["params"]
        {'class_token': array([1., 1.])}
    """
    params: dict[str, Any] = {}
    for key, value in state_dict.items():
        if key in _HEADS:
            continue
        *parents, leaf = _path(key)
        node = params
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = _array_in(key, np.asarray(value))
    return {"params": params, "batch_stats": {}}


def to_timm(params: Mapping[str, Any], channels: int) -> dict[str, np.ndarray]:
    """A state dict of timm's ``VisionTransformer``, without a classifier; contiguous arrays.

    Args:
        params: Parameters of our ViT. Where its positions are fixed, "positions" must be added, see
            ``ViT.constants``: timm's model stores every table.
        channels: Number of image channels.

    Raises:
        UserError: A leaf is no parameter of a ViT.
    """
    norm = "norm" if "class_token" in params else "fc_norm"
    found: dict[str, np.ndarray] = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for name, child in node.items():
                visit(child, (*path, name))
            return
        key = _key(path, norm)
        found[key] = np.ascontiguousarray(_array_out(key, np.asarray(node), channels))

    visit(params, ())
    return found


def patch_side(inputs: int, channels: int) -> int:
    """Side of a patch in pixels, from the number of inputs of its projection.

    Example:
        >>> patch_side(48, 3)
        4
    """
    return math.isqrt(inputs // channels)


def _path(key: str) -> tuple[str, ...]:
    """`blocks.0.attn.qkv.weight` -> (block1, qkv, kernel)."""
    if key in ("cls_token", "pos_embed"):
        return ("class_token",) if key == "cls_token" else ("positions",)
    module, _, leaf = key.rpartition(".")
    if leaf in ("weight", "bias"):
        if module == "patch_embed.proj":
            return ("patch", "kernel" if leaf == "weight" else "bias")
        if module in ("norm", "fc_norm"):
            return ("norm", "scale" if leaf == "weight" else "bias")
    if match := _BLOCK.fullmatch(key):
        block, inner = f"block{int(match[1]) + 1}", match[2]
        if inner in _SCALES:
            return (block, _SCALES[inner])
        name, _, leaf = inner.rpartition(".")
        if name in _MODULES and leaf in ("weight", "bias"):
            weight = "scale" if name.startswith("norm") else "kernel"
            return (block, _MODULES[name], weight if leaf == "weight" else "bias")
    raise UserError(f"{key!r} is no weight of timm's VisionTransformer; drop it or rename it")


def _key(path: tuple[str, ...], norm: str) -> str:
    """(block1, qkv, kernel) -> `blocks.0.attn.qkv.weight`; ``norm`` is the name of the last one."""
    leaf = "weight" if path[-1] in ("kernel", "scale") else path[-1]
    match path:
        case ("class_token",):
            return "cls_token"
        case ("positions",):
            return "pos_embed"
        case ("patch", _):
            return f"patch_embed.proj.{leaf}"
        case ("norm", _):
            return f"{norm}.{leaf}"
        case (block, *rest) if block.startswith("block"):
            number = int(block.removeprefix("block")) - 1
            for theirs, ours in (_SCALES if len(rest) == 1 else _MODULES).items():
                if ours == rest[0]:
                    end = "" if len(rest) == 1 else f".{leaf}"
                    return f"blocks.{number}.{theirs}{end}"
    raise UserError(f"{'/'.join(path)!r} is no parameter of a ViT; give the encoder's parameters")


def _array_in(key: str, array: np.ndarray) -> np.ndarray:
    axes = _axes(key)
    if array.ndim != axes:
        raise UserError(f"{key!r} has shape {array.shape}; expected {axes} axes")
    if key == "cls_token":
        array = array[0, 0]
    elif key == "pos_embed":
        array = array[0]
    elif axes == 4:  # [D, C, p, p] -> [p p C, D]
        array = array.transpose(2, 3, 1, 0).reshape(-1, len(array))
    elif axes == 2:
        array = array.T
    return np.ascontiguousarray(array)


def _array_out(key: str, array: np.ndarray, channels: int) -> np.ndarray:
    axes = _axes(key)
    if axes == 3:
        return array.reshape(1, -1, array.shape[-1])
    if axes == 4:
        side = patch_side(len(array), channels)
        return array.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
    return array.T if axes == 2 else array


def _axes(key: str) -> int:
    """Number of axes of timm's array."""
    if key in ("cls_token", "pos_embed"):
        return 3
    if key == "patch_embed.proj.weight":
        return 4
    is_matrix = key.endswith(("qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight"))
    return 2 if is_matrix else 1
