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
        options = {name: self.model[name] for name in ("encoder", "width", "stem", "variant")}
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
        """Why a library has no such ResNet, and the way out; "" if it has."""
        if format == "torchvision":
            return self._without_names
        is_timm = format == "timm"
        found = obstacles(self.architecture) if is_timm else self._transformers_obstacles
        if not found:
            return ""
        remedy = "--format safetensors and --format stablehlo write any encoder"
        if not self._without_names:
            remedy = (
                "--format torchvision writes the same weights with the Python lines that build the "
                "module"
            )
        name = "timm" if is_timm else "transformers"
        return f"{name} cannot build this encoder: {'; '.join(found)}. {remedy}"

    @property
    def _without_names(self) -> str:
        """Why torchvision's names cannot express the encoder; "" if they can."""
        _, bottleneck = blocks_of(self.model["encoder"])
        variant = self.architecture.variant
        if variant in (("torchvision", "simclr") if bottleneck else ("torchvision",)):
            return ""
        return (
            f"torchvision has no names for the variant {variant} of {self.architecture.encoder}; "
            "--format safetensors and --format stablehlo write any encoder"
        )

    @property
    def _transformers_obstacles(self) -> list[str]:
        """Reasons why transformers' ResNetModel cannot be this encoder; empty if it can."""
        found = []
        if self.architecture.stem != "imagenet":
            found.append(f"it has no {self.architecture.stem} stem (3x3, without max-pool)")
        if self.architecture.variant != "torchvision":
            found.append(f"it has no variant {self.architecture.variant}")
        return found

    def state_dict(self, format: str) -> dict[str, np.ndarray]:
        """State dict with the names of a format, with the counters that a strict load asks for."""
        arrays = to_torchvision(self.variables)
        means = [key for key in arrays if key.endswith(".running_mean")]
        counters = {
            key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
            for key in means
        }
        rename = huggingface_name if format == "huggingface" else str
        return {rename(key): array for key, array in {**arrays, **counters}.items()}

    def torchvision_lines(self) -> str:
        """Python lines that build the module with torchvision, where no name does."""
        return _torch_lines(self.architecture, self.size)

    def timm_config(self) -> dict[str, Any]:
        """What timm's config.json states of the model."""
        return {
            "architecture": self.architecture.encoder,
            "global_pool": "avg",
            "model_args": {"in_chans": self.channels},
            "pretrained_cfg": {"pool_size": None, "first_conv": "conv1", "classifier": "fc"},
        }

    def transformers_config(self) -> dict[str, Any]:
        """What transformers' config.json states of the model."""
        stages, bottleneck = blocks_of(self.model["encoder"])
        base = round(64 * self.architecture.width)
        expansion = 4 if bottleneck else 1
        return {
            "architectures": ["ResNetModel"],
            "model_type": "resnet",
            "num_channels": self.channels,
            "embedding_size": base,
            "hidden_sizes": [base * 2**stage * expansion for stage in range(len(stages))],
            "depths": list(stages),
            "layer_type": "bottleneck" if bottleneck else "basic",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
            "dtype": "float32",
        }

    @property
    def transformers_call(self) -> tuple[str, str]:
        """Features are the pooled maps."""
        return "", "pooler_output.flatten(1)"


def obstacles(architecture: Architecture) -> list[str]:
    """Reasons why neither torchvision nor timm builds this encoder by name; empty if they do."""
    found = []
    if architecture.encoder not in _PEERS:
        found.append(f"they have no {architecture.encoder} with this stem")
    if architecture.width != 1:
        found.append(f"they have no ResNet whose stem has the width {architecture.width:g}")
    if architecture.stem != "imagenet":
        found.append(f"they have no {architecture.stem} stem (3x3, without max-pool)")
    if architecture.variant != "torchvision":
        found.append(f"they have no ResNet of the variant {architecture.variant}")
    return found


def huggingface_name(key: str) -> str:
    """Torchvision's key with the name of transformers' ResNetModel.

    Example:
        >>> huggingface_name("layer1.1.bn3.bias")
        'encoder.stages.0.layers.1.layer.2.normalization.bias'
    """
    *modules, leaf = key.split(".")
    last = modules[-1]
    if "downsample" in modules:
        part = "shortcut." + ("convolution" if last == "0" else "normalization")
    else:
        kind = "convolution" if last.startswith("conv") else "normalization"
        part = f"layer.{int(last[-1]) - 1}.{kind}"
        if len(modules) == 1:
            return f"embedder.embedder.{kind}.{leaf}"
    stage, block = int(modules[0].removeprefix("layer")) - 1, modules[1]
    return f"encoder.stages.{stage}.layers.{block}.{part}.{leaf}"


def _torch_lines(architecture: Architecture, size: int) -> str:
    """Python lines that build the module with torchvision, for inputs of a side in pixels."""
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
    elif architecture.variant == "simclr" and -(-size // 2) % 2 == 0:
        # TensorFlow pads maps of an even side below and right only.
        lines.append("model.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)")
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
