"""Recognises a ResNet by the shapes of its weights, and lists what a file gives and lacks."""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop.branches import (
    Branch,
    StateDict,
    choose,
    finite_float32,
    state_dicts,
    torchvision_names,
)
from cssl_jax.interop.file_uses import COUNTER, Use, uses_of
from cssl_jax.interop.torchvision import from_torchvision

# (blocks per stage, whether they are bottlenecks) -> name in models.registry.
_NAMES: dict[tuple[tuple[int, ...], bool], str] = {
    ((1, 1, 1, 1), False): "resnet10",
    ((1, 1, 1, 1), True): "resnet14",
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
    ((3, 24, 36, 3), True): "resnet200",
}
BLOCKS = {name: blocks for blocks, name in _NAMES.items()}
_STEMS = {7: "imagenet", 3: "cifar"}
_ENCODER_KEY = re.compile(r"(conv1|bn1|layer\d+)\.")
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A ResNet's options, as in the config section ``model``.

    Attributes:
        encoder: Name of the encoder, such as "resnet50".
        width: Multiplier of every channel count.
        stem: "imagenet" or "cifar".
        channels: Number of image channels.
        variant: "torchvision", "simclr" or "simclr_sk".
    """

    encoder: str
    width: float
    stem: str
    channels: int
    variant: str = "torchvision"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A projection head from a file, whose hidden layers are as wide as the features.

    Attributes:
        layers: Number of layers.
        out: Width of the projections.
        variables: {"params", "batch_stats"}, float32.
        names: Names of its arrays in the file.
    """

    layers: int
    out: int
    variables: dict[str, Any]
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetWeights:
    """A ResNet's weights from a file.

    Attributes:
        architecture: Options that the shapes of the weights imply.
        variables: {"params", "batch_stats"} of the encoder, float32.
        branch: Place of the encoder in the file.
        uses: What became of the arrays of the file.
        head: Projection head of SimCLR, where the file has one that is ours.
    """

    architecture: Architecture
    variables: dict[str, Any]
    branch: Branch
    uses: tuple[Use, ...]
    head: Head | None = None


def find_resnet(tree: Mapping[str, Any], wanted: str = "") -> ResNetWeights:
    """Finds a ResNet in the content of a file.

    Args:
        tree: Nested dict of arrays.
        wanted: Prefix of the encoder's keys; "" chooses, see ``branches.choose``.

    Raises:
        UserError: There is no ResNet, or one of another kind: with other blocks, three stages, or
            wider inner layers. The message names the first array that differs.
    """
    dicts = state_dicts(tree)
    branch, others = choose(dicts, wanted)
    named = torchvision_names(dicts[branch.nest], branch.prefix)
    weights = {
        key: array
        for key, array in named.items()
        if _ENCODER_KEY.match(key) and not key.endswith(COUNTER)
    }
    architecture = _recognise(weights)
    _check_shapes(weights, architecture)
    floats = {key: finite_float32(key, array) for key, array in weights.items()}
    return ResNetWeights(
        architecture=architecture,
        variables=from_torchvision(floats),
        branch=branch,
        uses=uses_of(dicts, branch, others, len(weights), _is_own),
    )


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Torchvision's names of all weights of a ResNet encoder, and their shapes in torch's order."""
    stages, bottleneck = blocks_of(architecture.encoder)
    base = round(64 * architecture.width)
    kernel = next(size for size, stem in _STEMS.items() if stem == architecture.stem)
    expected: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, out: int, inputs: int, size: int) -> None:
        expected[f"{conv}.weight"] = (out, inputs, size, size)
        expected.update({f"{norm}.{leaf}": (out,) for leaf in _NORM})

    add("conv1", "bn1", base, architecture.channels, kernel)
    inputs = base
    for stage, blocks in enumerate(stages):
        inner = base * 2**stage
        out = inner * (4 if bottleneck else 1)
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            sizes = ((inner, 1), (inner, 3), (out, 1)) if bottleneck else ((out, 3), (out, 3))
            last = inputs
            for i, (channels, size) in enumerate(sizes, start=1):
                add(f"{name}.conv{i}", f"{name}.bn{i}", channels, last, size)
                last = channels
            if inputs != out or (block == 0 and stage > 0):
                add(f"{name}.downsample.0", f"{name}.downsample.1", out, inputs, 1)
            inputs = out
    return expected


def blocks_of(encoder: str) -> tuple[tuple[int, ...], bool]:
    """(blocks per stage, whether they are bottlenecks) of an encoder.

    Raises:
        UserError: It is no ResNet of images.
    """
    if encoder in BLOCKS:
        return BLOCKS[encoder]
    raise UserError(f"encoder {encoder!r} is no ResNet of images; use {', '.join(_NAMES.values())}")


def _recognise(weights: StateDict) -> Architecture:
    """Architecture that the stem and the blocks' names imply."""
    stem = weights["conv1.weight"]
    if stem.ndim != 4 or stem.shape[2] not in _STEMS or stem.shape[2] != stem.shape[3]:
        raise UserError(
            f"conv1.weight has shape {stem.shape}; a ResNet's stem is a 7x7 or 3x3 convolution"
        )
    blocks: dict[int, set[int]] = collections.defaultdict(set)
    for key in weights:
        if match := re.match(r"layer(\d{1,2})\.(\d{1,3})\.", key):
            blocks[int(match[1])].add(int(match[2]))
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    bottleneck = "layer1.0.conv3.weight" in weights
    name = _NAMES.get((counts, bottleneck))
    if name is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"the weights have {len(counts)} stages of {counts} {kind} blocks, which is no encoder "
            f"of cssl_jax; there are {', '.join(_NAMES.values())}, of four stages each"
        )
    return Architecture(
        encoder=name,
        width=stem.shape[0] / 64,
        stem=_STEMS[stem.shape[2]],
        channels=stem.shape[1],
    )


def _check_shapes(weights: StateDict, architecture: Architecture) -> None:
    expected = shapes(architecture)
    name = f"{architecture.encoder} of width {architecture.width:g}"
    for key in expected:
        if key not in weights:
            missing = sum(other not in weights for other in expected)
            raise UserError(f"the weights lack {key} of a {name} ({missing} arrays are missing)")
        if weights[key].shape != expected[key]:
            raise UserError(
                f"{key} has shape {weights[key].shape} and that of a {name} is {expected[key]}: "
                "the weights are those of another kind of ResNet, such as a ResNeXt or a "
                "wide_resnet, which has other inner widths"
            )
    if extra := [key for key in weights if key not in expected]:
        raise UserError(
            f"{cut(extra[0])} is no part of a {name} ({len(extra)} such arrays): the weights are "
            "those of another kind of ResNet"
        )


def _is_own(key: str, array: np.ndarray, prefix: str) -> bool:
    """True if an array of the file belongs to the encoder with this prefix, by either name."""
    names = (key[len(prefix) :], *torchvision_names({key: array}, prefix))
    return any(_ENCODER_KEY.match(name) for name in names)
