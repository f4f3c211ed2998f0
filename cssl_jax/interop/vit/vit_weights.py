"""Recognises a ViT by the shapes of its weights; the number of heads must be stated."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop.branches import Branch, StateDict, choose, finite_float32, state_dicts
from cssl_jax.interop.file_uses import Use, uses_of
from cssl_jax.interop.vit.huggingface_vit import joined
from cssl_jax.interop.vit.timm_vit import from_timm
from cssl_jax.interop.vit.torchvision_vit import timm_names

# Encoder: (number of blocks, channels at width 1).
SIZES = {
    "vit_micro": (2, 192),
    "vit_tiny": (12, 192),
    "vit_small": (12, 384),
    "vit_base": (12, 768),
    "vit_large": (24, 1024),
}
HEAD = 64  # channels per head of timm's models
# Other tokens belong to the encoder too, and are then refused.
_ENCODER_KEY = re.compile(
    r"(cls_token|pos_embed|(reg|dist)_token|register_tokens|storage_tokens)$"
    r"|(patch_embed|blocks|norm|fc_norm|norm_pre)\."
)
_BLOCK = re.compile(r"blocks\.(\d{1,3})\.")
_INITIAL_SCALE = 1e-5  # of LayerScale in timm; weights of a file replace it


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTArchitecture:
    """A ViT's options, as in the config section ``model``.

    Attributes:
        encoder: Name of the encoder, such as "vit_small".
        width: Multiplier of every channel count.
        patch: Side of a patch in pixels.
        heads: Number of attention heads.
        pool: "token" or "mean".
        layer_scale: Whether there is LayerScale.
        size: Side in pixels of the images that the positions are of.
        channels: Number of image channels.
    """

    encoder: str
    width: float
    patch: int
    heads: int
    pool: str
    layer_scale: bool
    size: int
    channels: int

    @property
    def hidden(self) -> int:
        """Number of channels of a token."""
        return round(SIZES[self.encoder][1] * self.width)

    def model(self) -> dict[str, Any]:
        """Values of the config section ``model``; positions of a file become learned ones."""
        own = self.heads == SIZES[self.encoder][1] // HEAD
        return {
            "encoder": self.encoder,
            "width": self.width,
            "patch": self.patch,
            "heads": 0 if own else self.heads,
            "pool": self.pool,
            "layer_scale": _INITIAL_SCALE if self.layer_scale else 0.0,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTWeights:
    """A ViT's weights from a file.

    Attributes:
        architecture: Options that the shapes of the weights and the number of heads imply.
        variables: {"params", "batch_stats"} of the encoder, float32.
        branch: Place of the encoder in the file.
        uses: What became of the arrays of the file.
    """

    architecture: ViTArchitecture
    variables: dict[str, Any]
    branch: Branch
    uses: tuple[Use, ...]


def find_vit(tree: Mapping[str, Any], wanted: str = "", heads: int = 0) -> ViTWeights:
    """Finds a ViT with the names of timm, DINO, MAE and MoCo v3, of torchvision or Hugging Face.

    Args:
        tree: Nested dict of arrays.
        wanted: Prefix of the encoder's keys; "" chooses, see ``branches.choose``.
        heads: Number of attention heads; 0: unknown. Shapes do not determine it: timm's ViT-S with
            6 heads and MoCo v3's with 12 have the same, and a wrong number gives wrong features
            without an error.

    Raises:
        UserError: There is no ViT, one of another kind, or the number of heads is unknown or does
            not divide the channels. The message names the first array that differs.
    """
    dicts = state_dicts(tree)
    branch, others = choose(dicts, wanted)
    named = timm_names(dicts[branch.nest], branch.prefix)
    weights = {key: array for key, array in named.items() if _ENCODER_KEY.match(key)}
    taken = len(weights)
    weights = joined(weights)
    if "cls_token" not in weights:  # its last LayerNorm follows the mean
        weights = {k.replace("fc_norm.", "norm."): array for k, array in weights.items()}
    architecture = _recognise(weights, heads)
    weights = _with_position_of_token(weights, architecture)
    _check_shapes(weights, architecture)
    floats = {key: finite_float32(key, array) for key, array in weights.items()}
    return ViTWeights(
        architecture=architecture,
        variables=from_timm(floats),
        branch=branch,
        uses=uses_of(dicts, branch, others, taken, _is_own),
    )


def shapes(architecture: ViTArchitecture) -> dict[str, tuple[int, ...]]:
    """Timm's names of all weights of a ViT encoder, and their shapes in torch's order.

    Without a class token the last LayerNorm is called ``norm`` here, and ``fc_norm`` in timm.
    """
    width, patch = architecture.hidden, architecture.patch
    tokens = 1 if architecture.pool == "token" else 0
    found: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width)} if tokens else {}
    found["pos_embed"] = (1, tokens + (architecture.size // patch) ** 2, width)
    found["patch_embed.proj.weight"] = (width, architecture.channels, patch, patch)
    found["patch_embed.proj.bias"] = (width,)
    for block in range(SIZES[architecture.encoder][0]):
        name = f"blocks.{block}"
        for module, out, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            found[f"{name}.{module}.weight"] = (out, inputs)
            found[f"{name}.{module}.bias"] = (out,)
        vectors = [f"{name}.{norm}.{leaf}" for norm in ("norm1", "norm2") for leaf in _AFFINE]
        vectors += [f"{name}.ls{i}.gamma" for i in (1, 2)] if architecture.layer_scale else []
        found.update(dict.fromkeys(vectors, (width,)))
    return {**found, **{f"norm.{leaf}": (width,) for leaf in _AFFINE}}


_AFFINE = ("weight", "bias")


def _is_own(key: str, content: np.ndarray, prefix: str) -> bool:
    """True if an array of the file belongs to the encoder with this prefix."""
    return any(_ENCODER_KEY.match(name) for name in timm_names({key: content}, prefix))


def _recognise(weights: StateDict, heads: int) -> ViTArchitecture:
    """Architecture that the shapes and the number of heads imply."""
    kernel, positions = weights["patch_embed.proj.weight"], weights.get("pos_embed")
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(
            f"patch_embed.proj.weight has shape {kernel.shape}; a ViT's patches are squares"
        )
    width, channels, patch = kernel.shape[:3]
    layers = len({match[1] for key in weights if (match := _BLOCK.match(key))})
    if positions is None or positions.ndim != 3:
        raise UserError("the weights have no pos_embed; a ViT of this package adds positions")
    count = positions.shape[1]
    token = "cls_token" in weights
    # With a class token, its position may be missing: timm's no_embed_class.
    patches = (count - 1, count) if token else (count,)
    fitting = [math.isqrt(number) for number in patches if math.isqrt(number) ** 2 == number]
    if not fitting:
        raise UserError(
            f"pos_embed has {count} positions, which are no square of patches"
            f"{' and a class token' if token else ''}: register tokens and images that are no "
            "squares are not supported"
        )
    name, scale = _size_of(layers, width)
    return ViTArchitecture(
        encoder=name,
        width=scale,
        patch=patch,
        heads=_checked_heads(heads, name, width),
        pool="token" if token else "mean",
        layer_scale="blocks.0.ls1.gamma" in weights,
        size=fitting[0] * patch,
        channels=channels,
    )


def _size_of(layers: int, width: int) -> tuple[str, float]:
    """(encoder, multiplier of its width)."""
    named = [name for name, (blocks, _) in SIZES.items() if blocks == layers]
    if not named:
        counts = sorted({blocks for blocks, _ in SIZES.values()})
        raise UserError(
            f"the weights are of a ViT with {layers} blocks, which is no encoder of cssl_jax; "
            f"there are {', '.join(SIZES)} with {', '.join(map(str, counts))} blocks"
        )
    exact = [name for name in named if SIZES[name][1] == width]
    name = exact[0] if exact else named[0]
    return name, width / SIZES[name][1]


def _checked_heads(heads: int, name: str, width: int) -> int:
    hidden = SIZES[name][1]
    usual = hidden // HEAD
    if not heads:
        others = " and MoCo v3's 12" if name == "vit_small" else ""
        raise UserError(
            f"the file does not state the number of attention heads of its {name}, and the shapes "
            f"of its weights do not determine it: timm's has {usual}{others}. `cssl-jax import "
            f"FILE --workdir RUN --heads {usual}` makes a run with it"
        )
    if hidden % heads or width % math.lcm(heads, 4):
        raise UserError(
            f"{heads} heads do not divide the {width} channels of these weights; give a divisor, "
            f"such as --heads {usual}"
        )
    return heads


def _with_position_of_token(weights: StateDict, architecture: ViTArchitecture) -> StateDict:
    """The weights with a position 0 of the class token, where only patches have positions."""
    positions = weights["pos_embed"]
    patches = (architecture.size // architecture.patch) ** 2
    if architecture.pool == "mean" or positions.shape[1] != patches:
        return weights
    padded = np.pad(np.asarray(positions), ((0, 0), (1, 0), (0, 0)))
    return {**weights, "pos_embed": padded}


def _check_shapes(weights: StateDict, architecture: ViTArchitecture) -> None:
    expected = shapes(architecture)
    name = f"{architecture.encoder} of width {architecture.width:g}"
    for key, shape in expected.items():
        if key not in weights:
            missing = sum(other not in weights for other in expected)
            raise UserError(f"the weights lack {key} of a {name} ({missing} arrays are missing)")
        if weights[key].shape != shape:
            raise UserError(
                f"{key} has shape {weights[key].shape} and that of a {name} is {shape}: the "
                "weights are those of another kind of ViT, such as one with a narrower MLP"
            )
    if extra := [key for key in weights if key not in expected]:
        raise UserError(
            f"{cut(extra[0])} is no part of a {name} ({len(extra)} such arrays): the weights are "
            "those of another kind of ViT, such as one with register tokens or a norm of queries"
        )
