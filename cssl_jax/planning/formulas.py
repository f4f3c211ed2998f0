"""Cost by hand: multiplications, and bytes between devices, from the sizes alone.

Apart from the code that computes, so that each can check the other.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from cssl_jax.config import ModelConfig
from cssl_jax.errors import UserError

FLOAT = 4  # bytes
METRICS = 3  # scalars that are averaged beside the gradient: loss, accuracy, entropy
# (blocks a stage, 1x1-3x3-1x1 blocks): arXiv 1512.03385, table 1; 10, 14 and 200 likewise.
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
    """One layer: kernel side, channels in and out, side of the output in pixels."""

    kernel: int
    inputs: int
    outputs: int
    side: int

    @property
    def parameters(self) -> int:
        """Weights; there are no biases."""
        return self.kernel**2 * self.inputs * self.outputs

    @property
    def flops(self) -> int:
        """Of one image forward: a multiplication and an addition a weight and place."""
        return 2 * self.parameters * self.side**2


def convolutions(model: ModelConfig, size: int, channels: int) -> Iterator[Convolution]:
    """The layers of a ResNet in order; every one is followed by a BatchNorm of its outputs.

    Raises:
        UserError: The encoder is no ResNet that is counted here.
    """
    if model.encoder not in RESNETS:
        raise UserError(
            f"the cost of encoder {model.encoder!r} is not known; use one of {', '.join(RESNETS)}"
        )
    stages, bottleneck = RESNETS[model.encoder]
    base = round(64 * model.width)
    side = -(-size // 2) if model.stem == "imagenet" else size
    yield Convolution(7 if model.stem == "imagenet" else 3, channels, base, side)
    side = -(-side // 2) if model.stem == "imagenet" else side  # max-pool
    width = base
    for stage, blocks in enumerate(stages):
        inner = base * 2**stage
        outer = 4 * inner if bottleneck else inner
        for block in range(blocks):
            before = side
            side = -(-side // 2) if stage and not block else side
            if bottleneck:
                yield Convolution(1, width, inner, before)
                yield Convolution(3, inner, inner, side)
                yield Convolution(1, inner, outer, side)
            else:
                yield Convolution(3, width, inner, side)
                yield Convolution(3, inner, outer, side)
            if width != outer or before != side:
                yield Convolution(1, width, outer, side)  # the shortcut
            width = outer


def projector(model: ModelConfig, features: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of each dense layer of the head."""
    hidden = model.projector_hidden or features
    widths = [features, *[hidden] * (model.projector_layers - 1), model.projector_dim]
    return list(itertools.pairwise(widths))


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step on one device.

    Attributes:
        parameters: Of encoder and head.
        encoder_flops: Forward and backward.
        loss_flops: Likewise.
        all_gather: Bytes of its result.
        all_reduce: Bytes that go in: the gradient.
        norm_all_reduce: Bytes that go in: BatchNorm's statistics and their gradients.
        reduce_scatter: Bytes that go in.
        waits: Averages of BatchNorm that the next layer waits for, one after another.
        norm_devices: That each of them is over.
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
        """Of encoder, head and loss."""
        return self.encoder_flops + self.loss_flops

    def sent(self, devices: int) -> float:
        """Bytes that each device sends, with rings: Patarasuk and Yuan 2009, sec. 3."""
        once = self.all_gather + self.reduce_scatter
        return (once + 2 * (self.all_reduce + self.norm_all_reduce)) * (devices - 1) / devices


def cost(
    model: ModelConfig,
    *,
    size: int,
    channels: int,
    batch: int,
    devices: int,
    tiled: bool,
    micro_batches: int = 1,
) -> Cost:
    """By hand, for SimCLR with two views.

    Args:
        model: Encoder and head.
        size: Side of a view in pixels.
        channels: Of a view.
        batch: Global, N.
        devices: That share it.
        tiled: The loss is taken in tiles, see ``losses.similarity.choose_tile``.
        micro_batches: Parts that the batch is encoded in; more than one is GradCache.
    """
    stem, *blocks = convolutions(model, size, channels)
    head = projector(model, blocks[-1].outputs)
    rows, images = 2 * batch, 2 * batch // devices
    dense = sum(a * b for a, b in head)
    inside = sum(layer.flops for layer in blocks)
    forward = stem.flops + inside + 2 * dense
    # Backward once for the weights and once for the inputs, but for those of the first layer.
    encoder = 3 * forward - stem.flops
    encoder += forward if micro_batches > 1 else 0  # once more, as activations are not kept
    encoder += inside if model.remat else 0  # likewise, of every block
    # Three products of [2n, d] with [2N, d]: similarities, and the gradients of both sides; in
    # tiles similarities twice, and by symmetry the gradient of one side.
    loss = 3 * 2 * images * rows * model.projector_dim
    layers = [stem, *blocks]
    norms = [layer.outputs for layer in layers]
    norms += [out for _, out in head] if model.projector_norm else []
    scales = 2 * sum(norms) - (model.projector_dim if model.projector_norm else 0)
    groups = _groups(model, batch // micro_batches)
    often, again = _norm_reductions(model, groups < devices, micro_batches)
    biases = 0 if model.projector_norm else sum(out for _, out in head)
    parameters = sum(layer.parameters for layer in layers) + dense + scales + biases
    return Cost(
        parameters=parameters,
        encoder_flops=images * encoder,
        loss_flops=loss,
        # In tiles each anchor's log-sum-exp goes along, and the gradient needs no more.
        all_gather=rows * FLOAT * (model.projector_dim + (1 if tiled else 0)),
        all_reduce=FLOAT * (parameters + METRICS),
        norm_all_reduce=2 * FLOAT * (often * sum(norms) + again * sum(x.outputs for x in blocks)),
        reduce_scatter=0 if tiled else rows * FLOAT * model.projector_dim,
        waits=(often - micro_batches) * len(norms) + again * len(blocks),
        norm_devices=max(devices // groups, 1),
    )


def _groups(model: ModelConfig, encoded: int) -> int:
    """BatchNorm groups of so many examples that are encoded at once."""
    return encoded // (model.norm_group or encoded)


def _norm_reductions(model: ModelConfig, shared: bool, micro_batches: int) -> tuple[int, int]:
    """How often BatchNorm averages two numbers a channel over devices in one step.

    Every norm: its moments forward, their gradient backward, and what the running ones are moved
    by; moments only where devices share a group. Those in blocks: moments again, with remat.
    """
    moments = micro_batches if shared else 0
    forward = 2 if micro_batches > 1 else 1
    return micro_batches + (forward + 1) * moments, moments if model.remat else 0
