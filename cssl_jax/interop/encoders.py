"""The encoder in a file of weights, of any kind: what the package needs to build it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.interop import preprocessing
from cssl_jax.interop.branches import VIT, Branch, choose, state_dicts
from cssl_jax.interop.file_uses import Use
from cssl_jax.interop.preprocessing import Preprocessing
from cssl_jax.interop.resnet_weights import find_resnet
from cssl_jax.interop.vit.vit_weights import HEAD, SIZES, find_vit

_MAX_HEADS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundEncoder:
    """An encoder from a file of weights.

    Attributes:
        model: Values of the config section ``model`` that the weights imply.
        channels: Number of image channels.
        description: The encoder and its options in one line.
        variables: {"params", "batch_stats"} of the encoder, float32.
        branch: Place of the encoder in the file.
        uses: What became of the arrays of the file.
        assumed: The usual preparation of images for such an encoder.
    """

    model: dict[str, Any]
    channels: int
    description: str
    variables: dict[str, Any]
    branch: Branch
    uses: tuple[Use, ...]
    assumed: Preprocessing


def find_encoder(tree: Mapping[str, Any], wanted: str = "", heads: int = 0) -> FoundEncoder:
    """Finds an encoder in the content of a file.

    Args:
        tree: Nested dict of arrays.
        wanted: Prefix of the encoder's keys; "" chooses, see ``branches.choose``.
        heads: Number of attention heads of a ViT; 0: unknown, which only a ResNet may be.

    Raises:
        UserError: There is none, or one that this package does not have.
    """
    branch, _ = choose(state_dicts(tree), wanted)
    if branch.kind == VIT:
        return _vit(tree, wanted, heads)
    if heads:
        raise UserError(f"heads is {heads}, and the weights are of a ResNet; omit --heads")
    return _resnet(tree, wanted)


def stated_heads(place: pathlib.Path, metadata: Mapping[str, str]) -> int:
    """Number of attention heads that a file or its folder states; 0 if they state none.

    Args:
        place: File of weights. A config.json beside it is timm's, whose names of ViTs stand for 64
            channels per head unless ``model_args`` differ, or that of Hugging Face.
        metadata: Metadata of the file; ``cssl-jax export`` writes the model's options there.
    """
    for text, read in (
        (metadata.get(preprocessing.KEY, ""), lambda content: content["model"]["heads"]),
        (_text_of(place.parent / "config.json"), _heads_of_config),
    ):
        try:
            heads = read(json.loads(text)) if text else 0
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # damaged files are reported where their preprocessing is read
        if type(heads) is int and 0 < heads <= _MAX_HEADS:
            return heads
    return 0


def _heads_of_config(content: dict[str, Any]) -> int:
    for stated in (
        (content.get("model_args") or {}).get("num_heads"),
        content.get("num_attention_heads"),
    ):
        if isinstance(stated, int):
            return stated
    name = str(content.get("architecture", "")).partition("_patch")[0]
    return SIZES[name][1] // HEAD


def _text_of(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _resnet(tree: Mapping[str, Any], wanted: str) -> FoundEncoder:
    found = find_resnet(tree, wanted)
    architecture = found.architecture
    model = dataclasses.asdict(architecture)
    channels = model.pop("channels")
    return FoundEncoder(
        model=model,
        channels=channels,
        description=f"{architecture.encoder}, width {architecture.width:g}, "
        f"stem {architecture.stem}, {channels} channels",
        variables=found.variables,
        branch=found.branch,
        uses=found.uses,
        assumed=preprocessing.assumed(architecture.stem, channels),
    )


def _vit(tree: Mapping[str, Any], wanted: str, heads: int) -> FoundEncoder:
    found = find_vit(tree, wanted, heads)
    architecture = found.architecture
    usual = preprocessing.assumed("imagenet", architecture.channels)
    return FoundEncoder(
        model=architecture.model(),
        channels=architecture.channels,
        description=f"{architecture.encoder}, width {architecture.width:g}, "
        f"{architecture.heads} heads, patches of {architecture.patch} px, "
        f"pool {architecture.pool}, {architecture.channels} channels",
        variables=found.variables,
        branch=found.branch,
        uses=found.uses,
        assumed=dataclasses.replace(usual, size=architecture.size),
    )
