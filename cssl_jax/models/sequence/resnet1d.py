"""ResNet of one-dimensional convolutions with BatchNorm over the steps that count."""

from collections.abc import Sequence
from typing import Any, Self

import flax.linen as nn
import jax

from cssl_jax.errors import UserError
from cssl_jax.models.normalization import BatchNorm
from cssl_jax.models.pooling import max_pool
from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import (
    masked_mean,
    split_input,
    strided,
    with_omitted,
    zero_outside,
)


def _convolution(channels: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """Convolution without bias, padded symmetrically: outputs are centred at multiples of stride.

    Flax's "SAME" pads by an amount that depends on the number of steps, and so on the padding.
    """
    pad = (kernel // 2, kernel // 2)
    return nn.Conv(
        channels, (kernel,), (stride,), padding=(pad,), use_bias=False, dtype=dtype, name=name
    )


class Block1d(nn.Module):
    """Residual block of two convolutions of 3 steps; attributes as in ``models.resnet``."""

    channels: int
    stride: int
    norm: dict[str, Any]
    last_scale: nn.initializers.Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, T, C], 0 at padding, to [n, ceil(T / stride), channels], 0 at padding.

        Args:
            x: Inputs.
            mask: bool [n, ceil(T / stride)], True at the outputs that count.
            train: True to use batch statistics.
        """
        y = _convolution(self.channels, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(BatchNorm(**self.norm, name="bn1")(y, train=train, mask=mask))
        y = zero_outside(y, mask)
        y = _convolution(self.channels, 3, 1, self.dtype, "conv2")(y)
        norm = BatchNorm(**self.norm, scale_init=self.last_scale, name="bn2")
        y = norm(y, train=train, mask=mask)
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = _convolution(self.channels, 1, self.stride, self.dtype, "downsample_conv")(x)
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
        stage_sizes: Number of blocks per stage.
        stem: "imagenet" (kernel 7, stride 2, then max-pool with stride 2) or "cifar" (kernel 3,
            stride 1), for series of fewer than about 100 steps.
        zero_init_residual: True to initialise the scale of each block's last BatchNorm to 0.
    """

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
            Dictionary of "features", float [n, 512 width], float32 or wider, and "stages", the list
            of maps [n, T', channels] after each stage, 0 at padding.

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
        y = _convolution(self.channels(64), kernel, stride, self.dtype, "conv1")(y)
        mask = strided(mask, stride)
        y = zero_outside(nn.relu(BatchNorm(**norm, name="bn1")(y, train=train, mask=mask)), mask)
        if self.stem == "imagenet":
            # The zeros at padding cannot win over activations of a ReLU.
            y, mask = max_pool(y[:, :, None], 3, 2, 1)[:, :, 0], strided(mask, 2)
            y = zero_outside(y, mask)
        block, stages = self.block(Block1d), []
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
        return {"features": masked_mean(y, mask), "stages": stages}


RESNET1D = sequence_entry(ResNet1d)
