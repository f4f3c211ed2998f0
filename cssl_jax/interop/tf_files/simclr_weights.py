"""ResNets in the TensorFlow checkpoints of SimCLR and SimCLRv2: their names in order of creation.

The layers below the scope ``base_model`` are numbered as they were created: ``conv2d/kernel``,
``conv2d_1/kernel``, ... and ``batch_normalization/gamma``, ... Their order is that of the published
code, ``resnet.py`` of https://github.com/google-research/simclr.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.interop.branches import Branch, finite_float32
from cssl_jax.interop.file_uses import Use
from cssl_jax.interop.resnet_weights import (
    BLOCKS,
    Architecture,
    Head,
    ResNetWeights,
    blocks_of,
)
from cssl_jax.interop.tf_files.tf_checkpoint import Checkpoint

_SCOPE = "base_model/"
_FIRST = _SCOPE + "conv2d/kernel"
_LAYER = re.compile(r"(conv2d|batch_normalization)(?:_(\d{1,4}))?/(\w+)")
_NORM_LEAVES = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
_OPTIMIZER = re.compile(r".*/(Momentum|Adam(_\d)?|RMSProp(_\d)?)")
_SQUEEZED = 32  # smallest width of a selective kernel's squeezed features


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution and the BatchNorm that follows it; ``norm`` is "" where none does.

    Attributes:
        block: Name of the block, such as "layer1_0"; "" in the stem.
        conv: Name of the convolution.
        norm: Name of the BatchNorm.
        shape: Shape of the kernel, [height, width, inputs, outputs].
    """

    block: str
    conv: str
    norm: str
    shape: tuple[int, int, int, int]


def is_simclr(content: Checkpoint) -> bool:
    """True if the names are those of SimCLR's code."""
    return any(name.endswith(_FIRST) for name in content)


def find_simclr(content: Checkpoint, wanted: str = "") -> ResNetWeights:
    """Finds the encoder and the projection head of SimCLR in a checkpoint.

    Args:
        content: The checkpoint.
        wanted: "base_model/" for the trained weights, "ema_model/base_model/" for their averages;
            "" takes the trained ones.

    Raises:
        UserError: There is no such encoder, or the layers are not those of one of ours.
    """
    scopes = sorted((n.removesuffix(_FIRST) for n in content if n.endswith(_FIRST)), key=len)
    chosen = [scope for scope in scopes if wanted in ("", scope + _SCOPE)]
    if not chosen:
        names = " or ".join(scope + _SCOPE for scope in scopes) or "no encoder"
        raise UserError(f"no encoder has the prefix {wanted!r}; use {names}")
    prefix = chosen[0] + _SCOPE
    layers = _numbered(content.shapes, prefix)
    architecture = _recognise(layers)
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    taken = list(_take(content, prefix, architecture, layers, variables))
    head = _head(content, chosen[0], variables["params"])
    used = {*taken, *(head.names if head else ())}
    return ResNetWeights(
        architecture=architecture,
        variables=variables,
        branch=Branch("", prefix),
        uses=_uses(content, used, prefix, len(taken)),
        head=head,
    )


def creation_order(architecture: Architecture) -> Iterator[_Layer]:
    """Layers of an encoder, in the order in which SimCLR's code creates them."""
    stages, bottleneck = blocks_of(architecture.encoder)
    base = round(64 * architecture.width)
    selective = architecture.variant == "simclr_sk"
    first = architecture.channels
    if selective and architecture.stem == "imagenet":
        yield _Layer("", "stem_conv1", "stem_bn1", (3, 3, first, base // 2))
        yield _Layer("", "stem_conv2", "stem_bn2", (3, 3, base // 2, base // 2))
        yield _Layer("", "conv1", "bn1", (3, 3, base // 2, base))
    else:
        side = 7 if architecture.stem == "imagenet" else 3
        yield _Layer("", "conv1", "bn1", (side, side, first, base))
    inputs = base
    for stage, count in enumerate(stages):
        inner = base * 2**stage
        out = inner * (4 if bottleneck else 1)
        for number in range(count):
            name = f"layer{stage + 1}_{number}"
            if number == 0:
                yield _Layer(name, "downsample_conv", "downsample_bn", (1, 1, inputs, out))
            if bottleneck:
                yield _Layer(name, "conv1", "bn1", (1, 1, inputs, inner))
                yield from _middle(name, inner, selective)
                yield _Layer(name, "conv3", "bn3", (1, 1, inner, out))
            else:
                yield _Layer(name, "conv1", "bn1", (3, 3, inputs, out))
                yield _Layer(name, "conv2", "bn2", (3, 3, out, out))
            inputs = out


def _middle(block: str, inner: int, selective: bool) -> Iterator[_Layer]:
    """The 3x3 convolution of a bottleneck, or its selective kernel."""
    yield _Layer(block, "conv2", "bn2", (3, 3, inner, 2 * inner if selective else inner))
    if selective:
        squeezed = max(inner // 16, _SQUEEZED)
        yield _Layer(block, "squeeze_conv", "squeeze_bn", (1, 1, inner, squeezed))
        yield _Layer(block, "mix_conv", "", (1, 1, squeezed, 2 * inner))


Layers = dict[str, dict[int, dict[str, tuple[int, ...]]]]


def _numbered(shapes: dict[str, tuple[int, ...]], prefix: str) -> Layers:
    """Kind of layer -> number -> leaf -> shape, of the layers below a prefix."""
    found: Layers = {"conv2d": {}, "batch_normalization": {}}
    for name, shape in shapes.items():
        match = _LAYER.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is not None:
            found[match[1]].setdefault(int(match[2] or 0), {})[match[3]] = shape
    for kind, layers in found.items():
        if sorted(layers) != list(range(len(layers))):
            raise UserError(f"the layers {prefix}{kind}_* are not numbered without gaps")
    return found


def _recognise(layers: Layers) -> Architecture:
    """Architecture with as many layers, and with the stem of the first kernel."""
    convs, norms = layers["conv2d"], layers["batch_normalization"]
    first = convs[0].get("kernel", ())
    if len(first) != 4 or not first[3] or first[0] != first[1]:
        raise UserError(f"the first kernel has shape {first}; that of a ResNet is [3, 3, ...]")
    for encoder, stem, variant in itertools.product(
        BLOCKS, ("imagenet", "cifar"), ("simclr", "simclr_sk")
    ):
        if variant == "simclr_sk" and not blocks_of(encoder)[1]:
            continue
        halved = variant == "simclr_sk" and stem == "imagenet"  # the deep stem's first layers
        candidate = Architecture(
            encoder=encoder,
            width=first[3] * (2 if halved else 1) / 64,
            stem=stem,
            channels=first[2],
            variant=variant,
        )
        order = list(creation_order(candidate))
        counts = len(order), sum(bool(layer.norm) for layer in order)
        if counts == (len(convs), len(norms)) and order[0].shape == first:
            return candidate
    raise UserError(
        f"{len(convs)} convolutions and {len(norms)} BatchNorms are those of no ResNet of SimCLR "
        f"with a first kernel of shape {first}"
    )


def _take(
    content: Checkpoint,
    prefix: str,
    architecture: Architecture,
    layers: Layers,
    variables: dict[str, Any],
) -> Iterator[str]:
    """Fills variables, and yields the names of the arrays."""
    norms = itertools.count()
    title = f"{architecture.encoder} of width {architecture.width:g}"
    for number, layer in enumerate(creation_order(architecture)):
        wanted: list[tuple[str, int, str, tuple[str, str, str], tuple[int, ...]]]
        wanted = [("conv2d", number, "kernel", ("params", layer.conv, "kernel"), layer.shape)]
        if layer.norm:
            norm = next(norms)
            wanted += [
                ("batch_normalization", norm, leaf, (part, layer.norm, ours), layer.shape[3:])
                for leaf, (part, ours) in _NORM_LEAVES.items()
            ]
        for kind, index, leaf, (part, module, ours), shape in wanted:
            name = f"{prefix}{kind}{f'_{index}' if index else ''}/{leaf}"
            found = layers[kind][index].get(leaf)
            if found != shape:
                raise UserError(f"{name} has shape {found} and that of a {title} is {shape}")
            node = variables[part].setdefault(layer.block, {}) if layer.block else variables[part]
            node.setdefault(module, {})[ours] = finite_float32(name, content[name])
            yield name


def _head(content: Checkpoint, scope: str, encoder: dict[str, Any]) -> Head | None:
    """The projection head, if there is one of one to three layers as ours; else None."""
    top = encoder["layer4_0"]
    features = top["conv3" if "conv3" in top else "conv2"]["kernel"].shape[3]
    start = f"{scope}head_contrastive/"
    names = [f"{start}l_0/"] if f"{start}l_0/dense/kernel" in content else []
    for number in itertools.count(0 if not names else 3):
        if f"{start}nl_{number}/dense/kernel" not in content or number == 3:
            break
        names.append(f"{start}nl_{number}/")
    if not names or f"{start}nl_3/dense/kernel" in content:
        return None
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    used = []
    width = features
    for number, name in enumerate(names, start=1):
        kernel = finite_float32(f"{name}dense/kernel", content[f"{name}dense/kernel"])
        last = number == len(names)
        if kernel.ndim != 2 or kernel.shape[0] != width or not (last or kernel.shape[1] == width):
            return None
        width = kernel.shape[1]
        params[f"dense{number}"], params[f"bn{number}"] = {"kernel": kernel}, {}
        stats[f"bn{number}"] = {}
        used.append(f"{name}dense/kernel")
        for leaf, (part, ours) in _NORM_LEAVES.items():
            full = f"{name}batch_normalization/{leaf}"
            if (full in content) != (leaf != "beta" or not last):
                return None
            if full in content:
                array = finite_float32(full, content[full])
                if array.shape != (width,):
                    return None
                (params if part == "params" else stats)[f"bn{number}"][ours] = array
                used.append(full)
    variables = {"params": params, "batch_stats": stats}
    return Head(layers=len(names), out=width, variables=variables, names=tuple(used))


def _uses(content: Checkpoint, used: set[str], prefix: str, taken: int) -> tuple[Use, ...]:
    """Lines on the arrays that were taken, and on all others by the beginning of their names."""
    groups: collections.Counter[str] = collections.Counter()
    for name in content:
        if name in used:
            continue
        if _OPTIMIZER.fullmatch(name):
            groups["state of the optimizer"] += 1
        elif _SCOPE in name and not name.startswith(prefix):
            other = name[: name.index(_SCOPE) + len(_SCOPE)]
            groups[f"{other}: another encoder; choose it by its prefix {other!r}"] += 1
        else:
            groups[f"{name.partition('/')[0]}: no part of the encoder"] += 1
    lines = [Use("taken", taken, f"encoder, from {prefix}")]
    if len(used) > taken:
        lines.append(Use("taken", len(used) - taken, "projection head"))
    lines += [Use("left", count, what) for what, count in sorted(groups.items())]
    return (*lines, Use("missing", 0, "nothing: every array of the encoder is there"))
