"""Names, layouts and configs of other libraries for a ResNet of this package."""

from typing import Any

import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.interop.resnet_weights import Architecture, blocks_of
from cssl_jax.interop.torchvision import to_torchvision

# Encoders that torchvision and timm build by name; both fix the width and the stem.
_PEERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def torch_state_dict(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """State dict with torchvision's names, with the counters that a strict load asks for."""
    arrays = to_torchvision(variables)
    means = [key for key in arrays if key.endswith(".running_mean")]
    counters = {
        key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for key in means
    }
    return {**arrays, **counters}


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


def transformers_obstacles(architecture: Architecture) -> list[str]:
    """Reasons why transformers' ResNetModel cannot be this encoder; empty if it can."""
    found = []
    if architecture.stem != "imagenet":
        found.append(f"it has no {architecture.stem} stem (3x3, without max-pool)")
    if architecture.variant != "torchvision":
        found.append(f"it has no variant {architecture.variant}")
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


def torch_lines(architecture: Architecture, size: int) -> str:
    """Python lines that build the module with torchvision, where no name does.

    Args:
        architecture: Options of the encoder.
        size: Side of its input in pixels.
    """
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


def check(architecture: Architecture) -> None:
    """Refuses an encoder whose weights torchvision's names cannot express.

    Raises:
        UserError: It is no ResNet of images, or one of another variant.
    """
    _, bottleneck = blocks_of(architecture.encoder)
    allowed = ("torchvision", "simclr") if bottleneck else ("torchvision",)
    if architecture.variant not in allowed:
        raise UserError(
            f"torchvision has no names for the variant {architecture.variant} of "
            f"{architecture.encoder}; --format safetensors and --format stablehlo write any encoder"
        )
