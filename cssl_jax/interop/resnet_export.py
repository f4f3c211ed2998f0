"""Names, layouts and configs of other libraries for a ResNet of this package."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.interop.resnet_weights import Architecture, blocks_of
from cssl_jax.interop.torchvision import to_torchvision

# Encoders that torchvision and timm build by name; both fix the width and the stem.
_PEERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetExport:
    """A ResNet in the terms of other libraries; see ``peer_export.PeerExport``.

    Attributes:
        model: Values of the config section ``model`` of the run.
        channels: Number of image channels.
        size: Side of the encoder's input in pixels.
        variables: {"params", "batch_stats"} of the encoder.

    Raises:
        UserError: The encoder is no ResNet of images.
    """

    model: Mapping[str, Any]
    channels: int
    size: int
    variables: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuses other encoders."""
        blocks_of(self.model["encoder"])

    @property
    def architecture(self) -> Architecture:
        """Options of the ResNet."""
        options = {name: self.model[name] for name in ("encoder", "width", "stem")}
        return Architecture(**options, channels=self.channels)

    @property
    def stored(self) -> dict[str, Any]:
        """Options of the model for the metadata of the file."""
        return dataclasses.asdict(self.architecture)

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons why no name of torchvision and timm stands for the encoder."""
        return tuple(f"torchvision and timm: {text}" for text in obstacles(self.architecture))

    def refusal(self, format: str) -> str:
        """Why timm has no such ResNet, and the way out; "" if it has, and for torchvision."""
        found = obstacles(self.architecture)
        if format != "timm" or not found:
            return ""
        return (
            f"timm cannot build this encoder: {'; '.join(found)}. --format torchvision writes the "
            "same weights with the Python lines that build the module"
        )

    def state_dict(self, format: str) -> dict[str, np.ndarray]:
        """State dict with the names of both, with the counters that a strict load asks for."""
        arrays = to_torchvision(self.variables)
        means = [key for key in arrays if key.endswith(".running_mean")]
        counters = {
            key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
            for key in means
        }
        return {**arrays, **counters}

    def torchvision_lines(self) -> str:
        """Python lines that build the module with torchvision, where no name does."""
        return _torch_lines(self.architecture)

    def timm_config(self) -> dict[str, Any]:
        """What timm's config.json states of the model."""
        return {
            "architecture": self.architecture.encoder,
            "global_pool": "avg",
            "model_args": {"in_chans": self.channels},
            "pretrained_cfg": {"pool_size": None, "first_conv": "conv1", "classifier": "fc"},
        }


def obstacles(architecture: Architecture) -> list[str]:
    """Reasons why neither torchvision nor timm builds this encoder by name; empty if they do."""
    found = []
    if architecture.encoder not in _PEERS:
        found.append(f"they have no {architecture.encoder} with this stem")
    if architecture.width != 1:
        found.append(f"they have no ResNet whose stem has the width {architecture.width:g}")
    if architecture.stem != "imagenet":
        found.append(f"they have no {architecture.stem} stem (3x3, without max-pool)")
    return found


def _torch_lines(architecture: Architecture) -> str:
    """Python lines that build the module with torchvision, where no name does."""
    stages, bottleneck = blocks_of(architecture.encoder)
    base = round(64 * architecture.width)
    kind = "Bottleneck" if bottleneck else "BasicBlock"
    size, stride, pad = (7, 2, 3) if architecture.stem == "imagenet" else (3, 1, 1)
    lines = [
        "import torch",
        "from safetensors.torch import load_file",
        f"from torchvision.models.resnet import {kind}, ResNet",
        "",
        f"model = ResNet({kind}, {list(stages)})",
        f"model.inplanes = {base}",
        f"model.conv1 = torch.nn.Conv2d({architecture.channels}, {base}, {size}, {stride}, {pad}, "
        "bias=False)",
        f"model.bn1 = torch.nn.BatchNorm2d({base})",
    ]
    if architecture.stem != "imagenet":
        lines.append("model.maxpool = torch.nn.Identity()")
    lines += [
        f"model.layer{i + 1} = model._make_layer({kind}, {base * 2**i}, {count}, "
        f"stride={1 if i == 0 else 2})"
        for i, count in enumerate(stages)
    ]
    lines += [
        "model.fc = torch.nn.Identity()",
        'model.load_state_dict(load_file("model.safetensors"))',
        "model.eval()",
    ]
    return "\n".join(lines)
