"""Finds the encoder among the state dicts and prefixes of a training checkpoint."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut

StateDict = dict[str, np.ndarray]

# Kinds of encoders by two names that must exist below the same prefix. The second and third forms
# of a ResNet are those of a Sequential over its children, as lightly's examples store them, and of
# Hugging Face's ResNet. The second form of a ViT is torchvision's, the third Hugging Face's.
RESNET, VIT = "ResNet", "ViT"
_FIRST_KEYS = (
    (RESNET, "conv1.weight", "layer1.0.conv1.weight"),
    (RESNET, "0.weight", "4.0.conv1.weight"),
    (
        RESNET,
        "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
    ),
    (VIT, "patch_embed.proj.weight", "blocks.0.norm1.weight"),
    (VIT, "conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
    (
        VIT,
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.attention.query.weight",
    ),
)
# State dicts of a checkpoint, first choice first: averaged weights before trained ones, as timm
# does, and the teacher before the student, as DINO's own evaluation does.
_NESTS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "student")
# Parts of a prefix that name the momentum branch of MoCo, BYOL and others. Their own evaluations
# take the other branch.
_MOMENTUM = re.compile(r"encoder_k\.|momentum|target_|teacher")
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclasses.dataclass(frozen=True)
class Branch:
    """An encoder in a checkpoint.

    Attributes:
        nest: Path of its state dict in the file, such as "state_dict"; "" is the file itself.
        prefix: Beginning of its keys, such as "module.encoder_q.".
        kind: ``RESNET`` or ``VIT``.
    """

    nest: str
    prefix: str
    kind: str = RESNET

    def __str__(self) -> str:
        return f"{self.nest}/{self.prefix}" if self.nest else self.prefix or "(no prefix)"


def state_dicts(tree: Mapping[str, Any]) -> dict[str, StateDict]:
    """All state dicts of a file: path of nested names, joined by "/", -> key -> array."""
    found: dict[str, StateDict] = {}

    def visit(node: Mapping[str, Any], path: str) -> None:
        arrays = {key: value for key, value in node.items() if isinstance(value, np.ndarray)}
        if arrays:
            found[path] = arrays
        for key, value in node.items():
            if isinstance(value, Mapping):
                visit(value, f"{path}/{key}" if path else key)

    visit(tree, "")
    return found


def branches(dicts: Mapping[str, StateDict]) -> list[Branch]:
    """All encoders in the state dicts of a file, the one that its own evaluation takes first."""
    found = [
        Branch(nest, prefix, kind)
        for nest, content in dicts.items()
        for kind, prefix in _prefixes(content)
    ]
    return sorted(found, key=_preference)


def choose(dicts: Mapping[str, StateDict], wanted: str = "") -> tuple[Branch, list[Branch]]:
    """Chooses an encoder.

    Args:
        dicts: Result of ``state_dicts``.
        wanted: Prefix of the encoder, or "nest/prefix"; "" takes the first of ``branches``.

    Returns:
        (chosen branch, all others).

    Raises:
        UserError: There is no encoder, or none with this prefix.
    """
    found = branches(dicts)
    if not found:
        keys = [key for content in dicts.values() for key in content]
        shown = ", ".join(map(cut, keys[:4])) or "no arrays"
        raise UserError(
            f"no ResNet or ViT found among the {len(keys)} arrays ({shown}, ...): neither "
            "conv1.weight and layer1.0.conv1.weight nor patch_embed.proj.weight and "
            "blocks.0.norm1.weight exist below one prefix"
        )
    fitting = [branch for branch in found if wanted in ("", branch.prefix, str(branch))]
    if not fitting:
        raise UserError(f"no encoder has the prefix {wanted!r}; use {' or '.join(map(str, found))}")
    return fitting[0], [branch for branch in found if branch != fitting[0]]


def torchvision_names(content: StateDict, prefix: str) -> StateDict:
    """The arrays below a prefix, with torchvision's names; the kind of names is recognised."""
    below = {key[len(prefix) :]: value for key, value in content.items() if key.startswith(prefix)}
    if _FIRST_KEYS[0][2] in below:
        return below
    rename = _from_sequential if _FIRST_KEYS[1][2] in below else _from_huggingface
    return {rename(key): value for key, value in below.items()}


def _prefixes(content: StateDict) -> Iterator[tuple[str, str]]:
    for key in content:
        for kind, first, second in _FIRST_KEYS:
            prefix = key.removesuffix(first)
            is_start = key.endswith(first) and (not prefix or prefix.endswith("."))
            # "layer1.0.conv1.weight" ends with "conv1.weight" as well.
            if is_start and prefix + second in content:
                yield kind, prefix


def _preference(branch: Branch) -> tuple[bool, int, int, str]:
    nest = branch.nest.rpartition("/")[2]
    order = _NESTS.index(nest) if nest in _NESTS else len(_NESTS)
    momentum = bool(_MOMENTUM.search(branch.prefix))
    return momentum, order, len(branch.prefix), branch.prefix


def _from_sequential(key: str) -> str:
    child, dot, rest = key.partition(".")
    return _SEQUENTIAL.get(child, child) + dot + rest


def _from_huggingface(key: str) -> str:
    """`encoder.stages.0.layers.1.layer.2.normalization.bias` -> `layer1.1.bn3.bias`."""
    *parents, leaf = key.split(".")
    match parents:
        case ["embedder", "embedder", part]:
            return f"{'conv1' if part == 'convolution' else 'bn1'}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "layer", layer, part] if (
            stage.isdigit() and layer.isdigit()
        ):
            kind = "conv" if part == "convolution" else "bn"
            return f"layer{int(stage) + 1}.{block}.{kind}{int(layer) + 1}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "shortcut", part] if stage.isdigit():
            number = 0 if part == "convolution" else 1
            return f"layer{int(stage) + 1}.{block}.downsample.{number}.{leaf}"
    return key


def finite_float32(key: str, array: Any) -> np.ndarray:
    """An array of a file as float32.

    Raises:
        UserError: It has values that are not finite. The message names ``key``.
    """
    found = np.asarray(array, np.float32)
    if not np.isfinite(found).all():
        raise UserError(f"{key} has values that are not finite; the weights are unusable")
    return found
