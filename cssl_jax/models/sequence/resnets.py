"""ResNets of sequences with BatchNorm over the steps that count: over time, or time and bands."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.models.convolution import convolution
from cssl_jax.models.normalization import BatchNorm
from cssl_jax.models.pooling import max_pool
from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import (
    masked_max,
    masked_mean,
    split_input,
    strided,
    with_omitted,
    zero_outside,
)


def _convolve(
    x: jax.Array, channels: int, kernel: int, stride: int, dtype: Any, name: str
) -> jax.Array:
    """Convolution without bias over all axes of x [n, T, ..., C] between the first and the last.

    It is padded symmetrically: outputs are centred at multiples of the stride. Flax's "SAME" pads
    by an amount that depends on the number of steps, and so on the padding.
    """
    axes = x.ndim - 2
    layer = nn.Conv(
        channels,
        (kernel,) * axes,
        (stride,) * axes,
        padding=((kernel // 2, kernel // 2),) * axes,
        use_bias=False,
        dtype=dtype,
        conv_general_dilated=convolution if axes == 2 else None,
        name=name,
    )
    convolved: jax.Array = layer(x)
    return convolved


class MaskedBlock(nn.Module):
    """Residual block of two convolutions of 3 steps; attributes as in ``models.resnet``."""

    channels: int
    stride: int
    norm: dict[str, Any]
    last_scale: nn.initializers.Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, T, ..., C], 0 at padding, to [n, ceil(T / stride), ..., channels].

        Args:
            x: Inputs.
            mask: bool [n, ceil(T / stride)], True at the outputs that count.
            train: True to use batch statistics.

        Returns:
            Outputs, 0 at padding.
        """
        y = _convolve(x, self.channels, 3, self.stride, self.dtype, "conv1")
        y = nn.relu(BatchNorm(**self.norm, name="bn1")(y, train=train, mask=mask))
        y = zero_outside(y, mask)
        y = _convolve(y, self.channels, 3, 1, self.dtype, "conv2")
        norm = BatchNorm(**self.norm, scale_init=self.last_scale, name="bn2")
        y = norm(y, train=train, mask=mask)
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = _convolve(x, self.channels, 1, self.stride, self.dtype, "downsample_conv")
            x = BatchNorm(**self.norm, name="downsample_bn")(x, train=train, mask=mask)
        return zero_outside(nn.relu(y + x), mask)


class ResNet1d(SequenceEncoder):
    """ResNet-18 (arXiv 1512.03385, table 1) with kernels of one dimension.

    Features are the mean of the last stage over the steps that count, [n, 512 width]. There are no
    "tokens": a step of the last stage covers 32 steps of the input with the stem "imagenet", and 8
    with "cifar". A length L becomes ceil(L / 2) at every stride of 2. Steps that ``keep`` omits are
    0 for the stem. A step of a stage counts if one of the input steps that it stands for is kept.

    At width 1 it has 3,843,456 + 448 C parameters for C channels with the stem "imagenet", and
    3,843,456 + 192 C with "cifar".

    Attributes:
        axes: Number of axes that are convolved; a constant per class.
        stage_sizes: Number of blocks per stage.
        stem: "imagenet" (kernel 7, stride 2, then max-pool with stride 2) or "cifar" (kernel 3,
            stride 1), for series of fewer than about 100 steps.
        zero_init_residual: True to initialise the scale of each block's last BatchNorm to 0.
    """

    axes: ClassVar[int] = 1

    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    stem: str = "imagenet"
    zero_init_residual: bool = True

    @property
    def num_stages(self) -> int:
        """Number of stages: groups of blocks with one number of steps."""
        return len(self.stage_sizes)

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Stage of a parameter from 1, by its path below the encoder; 0 is the stem."""
        name = path[0].key  # layer3_0, conv1, ...
        return int(name.removeprefix("layer").split("_")[0]) if name.startswith("layer") else 0

    def with_live_branches(self) -> Self:
        """The same encoder with the scale of each block's last BatchNorm initialised to 1."""
        return self.clone(zero_init_residual=False)

    @nn.compact
    def __call__(
        self,
        x: Any,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes sequences, see ``SequenceEncoder``; ``keys`` are not used.

        Returns:
            Dictionary of "features", float [n, D], float32 or wider, and "stages", the list of maps
            [n, T', ..., channels] after each stage, 0 at padding.

        Raises:
            UserError: ``x`` is no tree of sequences, or the stem is unknown.
        """
        if self.stem not in ("imagenet", "cifar"):
            raise UserError(f"stem {self.stem!r} is unknown; use 'imagenet' or 'cifar'")
        values, mask = split_input(x)
        mask = with_omitted(mask, keep)
        norm: dict[str, Any] = {
            "axis_name": self.axis_name,
            "groups": self.norm_groups,
            "momentum": self.norm_momentum,
            "dtype": self.dtype,
        }
        zero = self.zero_init_residual
        last_scale = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        y = zero_outside(values, mask)
        y = y[..., None] if self.axes == 2 else y
        y = _convolve(y, self.channels(64), kernel, stride, self.dtype, "conv1")
        mask = strided(mask, stride)
        y = zero_outside(nn.relu(BatchNorm(**norm, name="bn1")(y, train=train, mask=mask)), mask)
        if self.stem == "imagenet":
            # The zeros at padding cannot win over activations of a ReLU.
            y = (
                max_pool(y, 3, 2, 1)
                if self.axes == 2
                else max_pool(y[:, :, None], 3, 2, 1)[:, :, 0]
            )
            mask = strided(mask, 2)
            y = zero_outside(y, mask)
        block, stages = self.block(MaskedBlock), []
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                stride = 2 if i > 0 and j == 0 else 1
                mask = strided(mask, stride)
                made = block(
                    self.channels(64) * 2**i,
                    stride,
                    norm,
                    last_scale,
                    self.dtype,
                    name=f"layer{i + 1}_{j}",
                )
                y = made(y, mask, train)
            stages.append(y)
        return {"features": self.pooled(y, mask), "stages": stages}

    def pooled(self, y: jax.Array, mask: jax.Array) -> jax.Array:
        """Features [n, D] of the last stage [n, T', ..., C]: the mean over its steps."""
        return masked_mean(y, mask)


class SpectrogramResNet(ResNet1d):
    """ResNet over time and frequency: a step's C channels are an axis of their own.

    A stride of 2 halves both axes. Features are the mean over the frequencies of the last stage,
    and of that the mean and the maximum over the steps that count, side by side, [n, 1024 width]:
    BYOL-A (arXiv 2204.07402, sec. 3.3) pools over time so. At width 1, ResNet-10 has 4,899,520
    parameters and ResNet-18 11,170,240 with the stem "imagenet", 2,560 fewer with "cifar".
    """

    axes: ClassVar[int] = 2

    def pooled(self, y: jax.Array, mask: jax.Array) -> jax.Array:
        """Features [n, 2 C] of the last stage [n, T', M', C]."""
        steps = y.astype(jnp.promote_types(y.dtype, jnp.float32)).mean(axis=2)
        return jnp.concatenate([masked_mean(steps, mask), masked_max(steps, mask)], axis=1)


RESNET1D = sequence_entry(ResNet1d)
SPECTROGRAM_RESNET10 = sequence_entry(
    SpectrogramResNet, modalities=("audio",), stage_sizes=(1, 1, 1, 1)
)
SPECTROGRAM_RESNET18 = sequence_entry(SpectrogramResNet, modalities=("audio",))
