"""Closed-form cost of a step with an encoder of sequences; see ``formulas`` for images.

The formulas share no code with the models, so that tests can check one against the other.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cssl_jax.config import ModelConfig
from cssl_jax.methods.entry import LossCost, StepSizes
from cssl_jax.planning.formulas import (
    FLOAT,
    Cost,
    StepShape,
    group_count,
    head_sizes,
    norm_reductions,
    simclr_head,
)

HEAD = 32  # channels per head of the Transformer
DILATED_BLOCKS = 11


class Layer(NamedTuple):
    """One layer of an encoder of sequences, or several in one.

    Attributes:
        parameters: Number of parameters, biases and scales included.
        flops: Operations per sequence forward: a multiplication and an addition per product.
        norm: Number of channels of the BatchNorm that follows; 0 for none.
        first: Operations whose inputs need no gradient, because they are data.
        block: True if ``model.remat`` recomputes the layer in the backward pass.
    """

    parameters: int
    flops: int
    norm: int = 0
    first: int = 0
    block: bool = True


def _dense(
    inputs: int, outputs: int, steps: int, *, kernel: int = 1, bias: bool = True
) -> tuple[int, int]:
    """(parameters, operations) of a dense layer or convolution with ``steps`` outputs."""
    weights = kernel * inputs * outputs
    return weights + bias * outputs, 2 * weights * steps


def _dilated(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
    """Input projection and blocks of two convolutions of 3 steps; the last one is wider."""
    hidden = channels(64)
    parameters, flops = _dense(c, hidden, steps)
    yield Layer(parameters, flops, first=flops, block=False)
    for number in range(DILATED_BLOCKS):
        last = number == DILATED_BLOCKS - 1
        width = channels(320) if last else hidden
        parts = [_dense(hidden, width, steps, kernel=3), _dense(width, width, steps, kernel=3)]
        parts += [_dense(hidden, width, steps)] if last else []
        yield Layer(sum(one for one, _ in parts), sum(flops for _, flops in parts))


def _recurrent(gates: int, directions: int) -> Callable[..., Iterator[Layer]]:
    """Two layers of ``directions`` recurrences with ``gates`` gates."""

    def layers(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
        width = channels(128)
        for number, inputs in enumerate((c, directions * width)):
            projection, from_inputs = _dense(inputs, gates * width, steps)
            recurrence, from_state = _dense(width, gates * width, steps, bias=False)
            yield Layer(
                directions * (projection + recurrence + width),
                directions * (from_inputs + from_state),
                first=0 if number else directions * from_inputs,
            )

    return layers


def _transformer(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
    """Input projection, four blocks of attention and MLP, a LayerNorm."""
    width = HEAD * channels(4)
    parameters, flops = _dense(c, width, steps)
    yield Layer(parameters + 2 * width, flops, first=flops, block=False)  # with the last norm
    for _ in range(4):
        parts = [
            *(_dense(width, 3 * width, steps), _dense(width, width, steps)),
            *(_dense(width, 4 * width, steps), _dense(4 * width, width, steps)),
        ]
        parameters, flops = map(sum, zip(*parts, strict=True))
        scores = 2 * 2 * steps * steps * width  # query times key, weights times value
        yield Layer(parameters + 2 * 2 * width, flops + scores)


def _resnet(stages: Sequence[int], axes: int) -> Callable[..., Iterator[Layer]]:
    """ResNet over time, or over time and bands: no biases, a BatchNorm follows each convolution."""

    def layers(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
        shape: tuple[int, ...] = (steps,) if axes == 1 else (steps, c)

        def convolution(kernel: int, inputs: int, outputs: int, block: bool = True) -> Layer:
            places = math.prod(shape)
            weights, flops = _dense(inputs, outputs, places, kernel=kernel**axes, bias=False)
            return Layer(weights + 2 * outputs, flops, outputs, 0 if block else flops, block)

        def halved() -> tuple[int, ...]:
            return tuple(-(-size // 2) for size in shape)

        is_wide = stem == "imagenet"
        shape = halved() if is_wide else shape
        yield convolution(7 if is_wide else 3, c if axes == 1 else 1, channels(64), block=False)
        shape = halved() if is_wide else shape  # max-pool
        inputs = channels(64)
        for stage, blocks in enumerate(stages):
            outputs = channels(64) * 2**stage
            for block in range(blocks):
                is_strided = stage > 0 and block == 0
                shape = halved() if is_strided else shape
                yield convolution(3, inputs, outputs)
                yield convolution(3, outputs, outputs)
                if is_strided or inputs != outputs:
                    yield convolution(1, inputs, outputs)  # the shortcut
                inputs = outputs

    return layers


def _conv_gru(strides: Sequence[int], kernels: Sequence[int]) -> Callable[..., Iterator[Layer]]:
    """Convolutions with strides, each with a LayerNorm, and a GRU."""

    def layers(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
        width, inputs = channels(128), c
        for number, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
            steps = -(-steps // stride)
            parameters, flops = _dense(inputs, width, steps, kernel=kernel)
            yield Layer(parameters + 2 * width, flops, first=0 if number else flops)
            inputs = width
        projection, from_inputs = _dense(width, 3 * width, steps)
        recurrence, from_state = _dense(width, 3 * width, steps, bias=False)
        yield Layer(projection + recurrence + width, from_inputs + from_state)

    return layers


def _bert(blocks: int, hidden: int, heads: int) -> Callable[..., Iterator[Layer]]:
    """Embeddings of ``c`` words, 512 positions and 2 types, and blocks of attention and MLP."""

    def layers(channels: Callable[[int], int], c: int, steps: int, stem: str) -> Iterator[Layer]:
        width, inner = _bert_width(channels, hidden, heads), channels(4 * hidden)
        yield Layer((c + 512 + 2 + 2) * width, 0, block=False)  # with the LayerNorm
        for _ in range(blocks):
            parts = [_dense(width, width, steps)] * 4
            parts += [_dense(width, inner, steps), _dense(inner, width, steps)]
            parameters, flops = map(sum, zip(*parts, strict=True))
            yield Layer(parameters + 2 * 2 * width, flops + 2 * 2 * steps * steps * width)

    return layers


def _bert_width(channels: Callable[[int], int], hidden: int, heads: int) -> int:
    """Number of channels, a multiple of the number of heads."""
    # ``channels`` rounds, so that it is asked for a number that rounding hardly changes.
    scale = channels(1 << 20) / (1 << 20)
    return max(1, round(hidden * scale / heads)) * heads


def _bert_features(blocks: int, hidden: int, heads: int) -> Callable[[Callable[[int], int]], int]:
    """Width of the features from the scaled channel counts."""
    return lambda channels: _bert_width(channels, hidden, heads)


# Encoder of text: number of blocks, of channels and of heads.
BERTS = {
    "bert_tiny": (2, 128, 2),
    "bert_mini": (4, 256, 4),
    "bert_small": (4, 512, 8),
    "bert_base": (12, 768, 12),
    "minilm": (6, 384, 12),
}
# Encoder: (layers, width of the features from the scaled channel counts).
Channels = Callable[[int], int]
SEQUENCE_ENCODERS: dict[str, tuple[Callable[..., Iterator[Layer]], Callable[[Channels], int]]] = {
    "resnet1d": (_resnet((2, 2, 2, 2), axes=1), lambda channels: 8 * channels(64)),
    "spectrogram_resnet10": (
        _resnet((1, 1, 1, 1), axes=2),
        lambda channels: 16 * channels(64),  # mean and maximum
    ),
    "spectrogram_resnet18": (
        _resnet((2, 2, 2, 2), axes=2),
        lambda channels: 16 * channels(64),
    ),
    "dilated": (_dilated, lambda channels: channels(320)),
    "gru": (_recurrent(3, 1), lambda channels: channels(128)),
    "lstm": (_recurrent(4, 1), lambda channels: channels(128)),
    "bigru": (_recurrent(3, 2), lambda channels: 2 * channels(128)),
    "bilstm": (_recurrent(4, 2), lambda channels: 2 * channels(128)),
    "conv_gru": (_conv_gru((2, 2), (3, 3)), lambda channels: channels(128)),
    "wave_gru": (
        _conv_gru((5, 4, 2, 2, 2), (10, 8, 4, 4, 4)),
        lambda channels: channels(128),
    ),
    "transformer": (_transformer, lambda channels: HEAD * channels(4)),
    **{name: (_bert(*size), _bert_features(*size)) for name, size in BERTS.items()},
}


def sequence_layers(model: ModelConfig, steps: int, channels: int) -> tuple[list[Layer], int]:
    """(layers of an encoder of sequences, width of its features).

    Args:
        model: Encoder, its stem and width.
        steps: Number of steps of a view.
        channels: Channels of a view; of text the size of the vocabulary.

    Raises:
        KeyError: The encoder is not in ``SEQUENCE_ENCODERS``.
    """

    def scaled(base: int) -> int:
        return max(1, round(base * model.width))

    build, features = SEQUENCE_ENCODERS[model.encoder]
    return list(build(scaled, channels, steps, model.stem)), features(scaled)


def layers_cost(
    model: ModelConfig,
    layers: Sequence[Layer],
    features: int,
    shape: StepShape,
    *,
    steps: int,
    loss: Callable[[StepSizes], LossCost] | None = None,
    local: Sequence[Layer] = (),
) -> Cost:
    """Cost of one step with an encoder of these layers; see ``formulas.cost``.

    All steps of a view count, as the program computes them whatever the lengths are.

    Args:
        model: Encoder and projection head.
        layers: Layers of the encoder.
        features: Width of its features.
        shape: Sizes of the step.
        steps: Number of steps of a view, or of patches, which a loss of steps depends on.
        loss: Cost of a loss of steps in place of a projection head; None: there is a head.
        local: Layers of the encoder for a local view.
    """
    head = head_sizes([] if loss else shape.heads or [simclr_head(model)], features)
    batch, devices, micro_batches = shape.batch, shape.devices, shape.micro_batches
    rows, own = shape.views * batch, shape.views * batch // devices
    dense = sum(head.dense)

    def step_flops(layers: Sequence[Layer]) -> int:
        """Operations of a view, forward and backward."""
        forward = sum(layer.flops for layer in layers) + 2 * dense
        flops = 3 * forward - sum(layer.first for layer in layers)
        flops += forward if micro_batches > 1 else 0  # recomputed: GradCache stores none
        return flops + (sum(layer.flops for layer in layers if layer.block) if model.remat else 0)

    encoder = own * step_flops(layers)
    if shape.local_views:
        encoder += shape.local_views * batch // devices * step_flops(local)
    # Without a gradient only the encoder and the projection head run.
    target = sum(layer.flops for layer in layers) + 2 * sum(head.dense[:1])
    parameters = sum(layer.parameters for layer in layers) + dense + head.vectors
    parameters += shape.prototypes * model.projector_dim
    groups = group_count(model, batch // micro_batches)
    per_norm, _, waits = norm_reductions(model, groups, devices, micro_batches)
    masked = [layer for layer in layers if layer.norm]
    is_global = bool(masked) or model.norm_views == "apart"
    norm_bytes = 2 * FLOAT * per_norm * sum(head.norms)
    norm_bytes += FLOAT * _masked_reductions(model, masked, groups, micro_batches)
    waiting = waits * len(head.norms)
    waiting += (3 if micro_batches > 1 else 2) * micro_batches * len(masked)
    shared: dict[str, int] = {
        "encoder_flops": encoder + shape.targets * batch // devices * target,
        "norm_all_reduce": shape.encodings * norm_bytes,
        "waits": shape.encodings * waiting,
        "norm_devices": devices if is_global else max(devices // groups, 1),
    }
    if loss:
        found = loss(StepSizes(batch, devices, steps, features))
        parameters += found.parameters
        return Cost(
            parameters=parameters,
            loss_flops=found.flops,
            all_gather=found.gathered + found.gathered_masks,
            all_reduce=FLOAT * (parameters + found.metrics) + found.all_reduce,
            reduce_scatter=found.gathered,
            **shared,
        )
    gathered = rows * FLOAT if shape.contrasts else 0
    contrast = 3 * 2 * own * rows * model.projector_dim if shape.contrasts else 0
    per_example = shape.prototype_flops(model.projector_dim) + shape.neighbour_flops(features)
    return Cost(
        parameters=parameters,
        loss_flops=contrast + batch // devices * per_example,
        all_gather=gathered * (model.projector_dim + (1 if shape.tiled else 0))
        + shape.spread_bytes(features)
        + shape.scaled_bytes,
        all_reduce=FLOAT * (parameters + shape.metrics + shape.averaged),
        reduce_scatter=(0 if shape.tiled else gathered * model.projector_dim)
        + shape.spread_bytes(features),
        **shared,
    )


def _masked_reductions(
    model: ModelConfig, layers: list[Layer], groups: int, micro_batches: int
) -> int:
    """Numbers that the BatchNorm layers with a padding mask reduce over the devices.

    Forward, each reduces two sums per channel and a count, of every group, or of every view of it
    if views are apart. Backward it reduces the gradient of the sums.
    """
    cells = groups * (2 if model.norm_views == "apart" else 1)
    passes = 2 if micro_batches > 1 else 1  # GradCache encodes twice
    total = 0
    for layer in layers:
        forward = passes + (1 if model.remat and layer.block else 0)
        total += 2 * layer.norm * (forward + 1) + forward
    return cells * micro_batches * total
