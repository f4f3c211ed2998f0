"""Closed-form cost of a step: operations and bytes between devices, from the sizes alone.

The formulas share no code with the training step, so that tests can check one against the other.
Heads are counted from the description of their layers.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cssl_jax.config import ModelConfig
from cssl_jax.errors import UserError
from cssl_jax.models.heads import MLP, Layer, projection_head

FLOAT = 4  # bytes
# Encoder: (blocks per stage, whether blocks are 1x1-3x3-1x1 bottlenecks), from arXiv 1512.03385,
# table 1; ResNet-10, -14 and -200, which it lacks, follow the same scheme.
RESNETS = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet14": ((1, 1, 1, 1), True),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnet200": ((3, 24, 36, 3), True),
}


class Convolution(NamedTuple):
    """One convolution: kernel side, input and output channels, side of the output in pixels.

    ``norm`` is True if a BatchNorm of its outputs follows, and ``stage`` is 0 in the stem.
    """

    kernel: int
    inputs: int
    outputs: int
    side: int
    stage: int = 0
    norm: bool = True

    @property
    def parameters(self) -> int:
        """Number of weights; there are no biases."""
        return self.kernel**2 * self.inputs * self.outputs

    @property
    def flops(self) -> int:
        """Operations per image forward: a multiplication and an addition per weight and pixel."""
        return 2 * self.parameters * self.side**2


def check_known(encoder: str) -> None:
    """Raises UserError if an encoder is not in ``RESNETS``."""
    if encoder not in RESNETS:
        raise UserError(
            f"the cost of encoder {encoder!r} is not known; use one of {', '.join(RESNETS)}, "
            "vit_tiny, vit_small, vit_base or vit_large, or an encoder of series"
        )


def convolutions(model: ModelConfig, size: int, channels: int) -> Iterator[Convolution]:
    """The convolutions of a ResNet in order.

    Args:
        model: Encoder, its stem, width and variant.
        size: Side of an input image in pixels.
        channels: Channels of an input image.

    Raises:
        UserError: The encoder is not in ``RESNETS``.
    """
    check_known(model.encoder)
    stages, bottleneck = RESNETS[model.encoder]
    base = round(64 * model.width)
    selective = model.variant == "simclr_sk"
    halved = -(-size // 2)
    if model.stem == "cifar":
        side = size
        yield Convolution(3, channels, base, side)
    else:
        side = -(-halved // 2)  # max-pool
        if selective:
            yield Convolution(3, channels, base // 2, halved)
            yield Convolution(3, base // 2, base // 2, halved)
            yield Convolution(3, base // 2, base, halved)
        else:
            yield Convolution(7, channels, base, halved)
    width = base
    for stage, blocks in enumerate(stages):
        inner = base * 2**stage
        outer = 4 * inner if bottleneck else inner
        for block in range(blocks):
            before = side
            side = -(-side // 2) if stage and not block else side
            if bottleneck:
                yield Convolution(1, width, inner, before, stage + 1)
                yield from _middle(inner, side, stage + 1, selective)
                yield Convolution(1, inner, outer, side, stage + 1)
            else:
                yield Convolution(3, width, inner, side, stage + 1)
                yield Convolution(3, inner, outer, side, stage + 1)
            always = model.variant != "torchvision" and not block
            if width != outer or before != side or always:
                yield Convolution(1, width, outer, side, stage + 1)  # the shortcut
            width = outer


def _middle(inner: int, side: int, stage: int, selective: bool) -> Iterator[Convolution]:
    """The 3x3 convolution of a bottleneck, or the three convolutions of a selective kernel."""
    yield Convolution(3, inner, 2 * inner if selective else inner, side, stage)
    if selective:  # arXiv 2006.10029: a 16th of the width, and no fewer than 32 channels
        squeezed = max(inner // 16, 32)
        yield Convolution(1, inner, squeezed, 1, stage)
        yield Convolution(1, squeezed, 2 * inner, 1, stage, norm=False)


@dataclasses.dataclass(frozen=True)
class HeadSizes:
    """Sizes of the heads that follow each other on an encoder.

    Attributes:
        dense: Number of weights of each head's dense layers.
        norms: Number of channels of each BatchNorm.
        vectors: Number of biases and scales.
    """

    dense: list[int]
    norms: list[int]
    vectors: int


def head_sizes(heads: Sequence[Sequence[Layer]], features: int) -> HeadSizes:
    """Sizes of heads, given the width of the encoder's features."""
    dense, norms, vectors, width = [], [], 0, features
    for layers in heads:
        inputs, weights = width, 0
        for layer in layers:
            out = layer.width or inputs
            weights += width * out
            vectors += out * (layer.bias + _NORM_VECTORS[layer.norm])
            norms += [out] if layer.norm != "none" else []
            width = out
        dense.append(weights)
    return HeadSizes(dense, norms, vectors)


_NORM_VECTORS = {"none": 0, "bn": 2, "bn_no_bias": 1, "bn_plain": 0}


def heads_of(method: object, model: ModelConfig) -> list[Sequence[Layer]]:
    """Layers of a method's projection head and predictor; of SimCLR's head if it has neither."""
    modules = (getattr(method, name, None) for name in ("projector", "predictor"))
    heads: list[Sequence[Layer]] = [head.layers for head in modules if isinstance(head, MLP)]
    return heads or [simclr_head(model)]


def simclr_head(model: ModelConfig) -> Sequence[Layer]:
    """Layers of the projection head of ``model.projector_*`` as SimCLR has it."""
    return projection_head(
        layers=model.projector_layers,
        hidden=model.projector_hidden,
        out=model.projector_dim,
        norm=model.projector_norm,
    ).layers


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one training step on one device.

    Attributes:
        parameters: Number of parameters of encoder and heads.
        encoder_flops: Operations of encoder and heads, forward and backward.
        loss_flops: Operations of the loss, forward and backward.
        all_gather: Bytes of the all-gather's result.
        all_reduce: Bytes of the all-reduce's operands for gradient and metrics.
        norm_all_reduce: Bytes of the all-reduces' operands for BatchNorm: statistics and their
            gradients.
        reduce_scatter: Bytes of the reduce-scatter's operand.
        waits: Number of BatchNorm averages that the next layer waits for, one after another.
        norm_devices: Number of devices that each BatchNorm average is over.
    """

    parameters: int
    encoder_flops: int
    loss_flops: int
    all_gather: int
    all_reduce: int
    norm_all_reduce: int
    reduce_scatter: int
    waits: int
    norm_devices: int

    @property
    def flops(self) -> int:
        """Operations of encoder, head and loss."""
        return self.encoder_flops + self.loss_flops

    def sent(self, devices: int) -> float:
        """Bytes that each device sends with ring algorithms: Patarasuk and Yuan 2009, sec. 3."""
        once = self.all_gather + self.reduce_scatter
        return (once + 2 * (self.all_reduce + self.norm_all_reduce)) * (devices - 1) / devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepShape:
    """What the cost of a step depends on besides its encoder.

    Attributes:
        batch: Global batch size N in examples.
        devices: Number of devices that the batch is split over.
        tiled: Whether the loss is computed in tiles, see ``losses.core.similarity.choose_tile``.
        micro_batches: Number of micro-batches that the batch is encoded in; more than one means
            GradCache.
        views: Number of views per example that are encoded and differentiated.
        targets: Number of views per example that are encoded without a gradient.
        contrasts: Whether each projection is compared with those of the global batch.
        heads: Layers of the projection head and of the predictor, see ``heads_of``; by default
            ``simclr_head``.
        local_views: Number of further views per example, of another size.
        prototypes: Number of parameter vectors that every projection is compared with.
        averaged: Number of floats that are averaged over the devices, besides gradient and metrics.
        metrics: Number of scalars that are averaged along with the gradient.
        spread: Number of views whose features are compared with those of the global batch.
        scaled: Number of rows of prototypes that every device sends to the others.
    """

    batch: int
    devices: int
    tiled: bool = False
    micro_batches: int = 1
    views: int = 2
    targets: int = 0
    contrasts: bool = True
    heads: Sequence[Sequence[Layer]] = ()
    local_views: int = 0
    prototypes: int = 0
    averaged: int = 0
    metrics: int = 3
    spread: int = 0
    scaled: int = 0

    @property
    def encodings(self) -> int:
        """Number of passes through the encoder per micro-batch: views of each size go together."""
        return 2 if self.local_views else 1

    def prototype_flops(self, width: int) -> int:
        """Operations per example with the prototypes: products and their gradients."""
        students = 3 * (self.views + self.local_views)
        return 2 * self.prototypes * width * (students + self.targets)

    def neighbour_flops(self, features: int) -> int:
        """Operations per example to find the nearest features in the global batch."""
        return 2 * self.spread * self.batch * features

    def spread_bytes(self, features: int) -> int:
        """Bytes of the gathered features, and of their gradient."""
        return FLOAT * self.spread * self.batch * features

    @property
    def scaled_bytes(self) -> int:
        """Bytes of the gathered rows of prototypes."""
        return FLOAT * self.scaled * self.devices * self.prototypes


def cost(
    model: ModelConfig, shape: StepShape, *, size: int, channels: int, local_size: int = 0
) -> Cost:
    """Cost of one step of a method with a ResNet, by closed formulas.

    Args:
        model: Encoder and projection head.
        shape: Sizes of the step.
        size: Side of a view in pixels.
        channels: Channels of a view.
        local_size: Side of a local view in pixels.

    Raises:
        UserError: The encoder is not in ``RESNETS``.
    """
    layers = list(convolutions(model, size, channels))
    blocks = [layer for layer in layers if layer.stage]
    head = head_sizes(shape.heads or [simclr_head(model)], layers[-1].outputs)
    batch, devices, micro_batches = shape.batch, shape.devices, shape.micro_batches
    rows, images = shape.views * batch, shape.views * batch // devices
    dense = sum(head.dense)

    def step_flops(layers: list[Convolution]) -> int:
        """Operations of a view, forward and backward."""
        forward = sum(layer.flops for layer in layers) + 2 * dense
        # The backward pass costs one forward pass for the weights and one for the inputs, except
        # that the first layer needs no gradient of its inputs.
        flops = 3 * forward - layers[0].flops
        flops += forward if micro_batches > 1 else 0  # recomputed: GradCache stores none
        # With remat every block is recomputed in the backward pass.
        return flops + (sum(layer.flops for layer in layers if layer.stage) if model.remat else 0)

    encoder = images * step_flops(layers)
    if shape.local_views:
        local = step_flops(list(convolutions(model, local_size, channels)))
        encoder += shape.local_views * batch // devices * local
    # Three products of [2n, d] with [2N, d]: the similarities and the gradients of both sides. In
    # tiles: the similarities twice, and by symmetry the gradient of one side only.
    loss = 3 * 2 * images * rows * model.projector_dim if shape.contrasts else 0
    features = layers[-1].outputs
    per_example = shape.prototype_flops(model.projector_dim) + shape.neighbour_flops(features)
    loss += batch // devices * per_example
    gathered = rows * FLOAT if shape.contrasts else 0  # bytes of one number per row
    encoder_norms = [layer.outputs for layer in layers if layer.norm]
    inner_norms = [layer.outputs for layer in blocks if layer.norm]
    norms = [*encoder_norms, *head.norms]
    groups = group_count(model, batch // micro_batches)
    per_norm, recomputed, waits = norm_reductions(model, groups, devices, micro_batches)
    vectors = 2 * sum(encoder_norms) + head.vectors
    parameters = sum(layer.parameters for layer in layers) + dense + vectors
    parameters += shape.prototypes * model.projector_dim
    # Without a gradient only the encoder and the projection head run.
    target = sum(layer.flops for layer in layers) + 2 * head.dense[0]
    norm_bytes = 2 * FLOAT * (per_norm * sum(norms) + recomputed * sum(inner_norms))
    waiting = waits * len(norms)
    waiting += (micro_batches if model.remat and waits else 0) * len(inner_norms)
    return Cost(
        parameters=parameters,
        encoder_flops=encoder + shape.targets * batch // devices * target,
        loss_flops=loss,
        # In tiles each anchor's log-sum-exp is gathered too, and the gradient needs no collective.
        all_gather=gathered * (model.projector_dim + (1 if shape.tiled else 0))
        + shape.spread_bytes(features)
        + shape.scaled_bytes,
        all_reduce=FLOAT * (parameters + shape.metrics + shape.averaged),
        norm_all_reduce=shape.encodings * norm_bytes,
        reduce_scatter=(0 if shape.tiled else gathered * model.projector_dim)
        + shape.spread_bytes(features),
        waits=shape.encodings * waiting,
        norm_devices=devices if model.norm_views == "apart" else max(devices // groups, 1),
    )


def group_count(model: ModelConfig, encoded: int) -> int:
    """Number of BatchNorm groups among ``encoded`` examples that are encoded at once."""
    return encoded // (model.norm_group or encoded)


def norm_reductions(
    model: ModelConfig, groups: int, devices: int, micro_batches: int
) -> tuple[int, int, int]:
    """How often BatchNorm reduces two numbers per channel over devices in one step.

    Every norm reduces its moments forward, their gradient backward, and the updates of its running
    statistics. The moments are reduced only if devices share a group. With remat, norms in blocks
    reduce their moments again. With views apart, each reduction has the moments of both views of
    all groups, from which every device computes the running statistics.

    Returns:
        (reductions of every norm, additional reductions of norms in blocks, reductions of every
        norm that the next layer waits for). The running statistics are not waited for.
    """
    apart = model.norm_views == "apart"
    moments = micro_batches if apart or groups < devices else 0
    cells = 2 * groups if apart else 1  # sets of moments per reduction
    waits = (3 if micro_batches > 1 else 2) * moments
    running = 0 if apart else micro_batches
    return running + cells * waits, cells * moments if model.remat else 0, waits
