"""ResNet v1.5 (arXiv 1512.03385, stride on the 3x3), weight-compatible with torchvision.

Two variants are weight-compatible with the code of SimCLR and SimCLRv2 in TensorFlow.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.models.convolution import convolution
from cssl_jax.models.normalization import BatchNorm, NormGroups
from cssl_jax.models.pooling import max_pool, same_padding
from cssl_jax.models.registry import EncoderEntry
from cssl_jax.models.selective_kernels import (
    ModuleBuilder,
    deep_stem,
    selective_convolution,
    shortcut_pool,
)

# Flax's "SAME" pads strided convolutions on the bottom and right only. torchvision and the SimCLR
# code pad symmetrically, so every padding in this file is explicit.
# The maximum and the means of SimCLR's variants are padded as TensorFlow's "SAME" does.
# The initialisation is the SimCLR code's VarianceScaling(1, fan_in, truncated normal).
Conv = functools.partial(
    nn.Conv,
    use_bias=False,
    kernel_init=nn.initializers.lecun_normal(),
    conv_general_dilated=convolution,
)
_VARIANTS = ("torchvision", "simclr", "simclr_sk")  # the last one of bottlenecks


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (ResNet-18 and ResNet-34)."""

    channels: int
    stride: int
    conv: ModuleBuilder
    norm: ModuleBuilder
    last_scale: nn.initializers.Initializer
    project: bool
    selective: bool
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, H, W, C] to [n, H / stride, W / stride, channels]."""
        pad, stride = ((1, 1), (1, 1)), (self.stride, self.stride)
        y = self.conv(self.channels, (3, 3), strides=stride, padding=pad, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.channels, (3, 3), padding=pad, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=self.last_scale)(y, train=train)
        return nn.relu(y + _shortcut(self, x, self.channels, train))


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3, 1x1 convolutions; fourfold width (ResNet-50 and deeper)."""

    channels: int
    stride: int
    conv: ModuleBuilder
    norm: ModuleBuilder
    last_scale: nn.initializers.Initializer
    project: bool
    selective: bool
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, H, W, C] to [n, H / stride, W / stride, 4 channels]."""
        out = self.channels * self.expansion
        y = self.conv(self.channels, (1, 1), name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        if self.selective:
            options = self.channels, self.stride, self.conv, self.norm
            y = selective_convolution(y, *options, train)
        else:
            pad, stride = ((1, 1), (1, 1)), (self.stride, self.stride)
            y = self.conv(self.channels, (3, 3), strides=stride, padding=pad, name="conv2")(y)
            y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(out, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3", scale_init=self.last_scale)(y, train=train)
        return nn.relu(y + _shortcut(self, x, out, train))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, out: int, train: bool) -> jax.Array:
    if not block.project:
        return x
    stride = (block.stride, block.stride)
    if block.selective:
        x, stride = shortcut_pool(x, block.stride), (1, 1)
    y = block.conv(out, (1, 1), strides=stride, padding="VALID", name="downsample_conv")(x)
    normalized: jax.Array = block.norm(name="downsample_bn")(y, train=train)
    return normalized


class ResNet(nn.Module):
    """ResNet encoder with torchvision's parameter names, where "." inside a block becomes "_".

    Attributes:
        stage_sizes: Number of blocks per stage.
        block: Block class, ``BasicBlock`` or ``Bottleneck``.
        width: Multiplier of every channel count; SimCLR's wide models use 2 and 4.
        stem: "imagenet" (7x7 stride 2, 3x3 max-pool) or "cifar" (3x3 stride 1, no pool; App. B.9).
        variant: "torchvision", or "simclr": the max-pool is padded as TensorFlow pads, and the
            first block of each stage has a convolution in its shortcut; or "simclr_sk" of
            bottlenecks: besides, the stem and the shortcuts of ResNet-D, and selective kernels.
        axis_name: Mapped axis of cross-replica BatchNorm; None on a single device.
        norm_groups: Groups of the global batch with separate BatchNorm statistics, or their number.
        norm_momentum: Fraction of BatchNorm's running statistics that is retained per step.
        zero_init_residual: True to initialise the scale of each block's last BatchNorm to 0, so
            that the block starts as its shortcut (Goyal et al. 2017, sec. 5.1, and the SimCLR
            code). False initialises it to 1, as in BYOL's code.
        remat: True to recompute a block's activations in the backward pass instead of storing them.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck]
    width: float = 1.0
    stem: str = "imagenet"
    variant: str = "torchvision"
    axis_name: str | None = None
    norm_groups: int | NormGroups = 1
    norm_momentum: float = 0.9
    zero_init_residual: bool = True
    remat: bool = False
    dtype: jnp.dtype | None = None

    @property
    def num_stages(self) -> int:
        """Number of stages: groups of blocks at one resolution."""
        return len(self.stage_sizes)

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Stage of a parameter from 1, by its path below the encoder; 0 is the stem."""
        name = path[0].key  # layer3_0, conv1, ...
        return int(name.removeprefix("layer").split("_")[0]) if name.startswith("layer") else 0

    def with_live_branches(self) -> "ResNet":
        """The same encoder with the scale of each block's last BatchNorm initialised to 1."""
        return self.clone(zero_init_residual=False)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes normalised images.

        Args:
            x: Normalised images, float [n, H, W, C].
            train: True to use batch statistics and to update the running statistics.
            keys: Keys per row, uint32 [n, 2]. Not used: no layer draws a random mask.
            keep: Must be None: a convolution cannot omit patches.

        Returns:
            Dictionary of "features", float [n, D], float32 or wider, and "stages", the list of
            feature maps [n, H', W', C'] after each stage.

        Raises:
            UserError: The inputs are no images, the stem or the variant is unknown, or there is a
                mask of patches.
        """
        shape = getattr(x, "shape", ())  # examples of other modalities are trees of arrays
        if len(shape) != 4:
            given = f"shape {shape}" if shape else "a tree of arrays"
            raise UserError(
                f"a ResNet takes images [n, H, W, C] and was given {given}; for sequences use an "
                "encoder of sequences, such as --model.encoder resnet1d"
            )
        if keep is not None:
            raise UserError("a ResNet cannot omit patches of an image; use an encoder of patches")
        self._check_options()
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            axis_name=self.axis_name,
            groups=self.norm_groups,
            momentum=self.norm_momentum,
            dtype=self.dtype,
        )
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
        initializers = nn.initializers
        last_scale = (
            initializers.zeros_init() if self.zero_init_residual else initializers.ones_init()
        )
        base = round(64 * self.width)
        selective = self.variant == "simclr_sk"
        x = self._stem(x, conv, norm, train)
        stages = []
        for i, size in enumerate(self.stage_sizes):
            channels = base * 2**i
            for j in range(size):
                stride = 2 if i > 0 and j == 0 else 1
                is_wider = x.shape[-1] != channels * self.block.expansion
                always = j == 0 and self.variant != "torchvision"
                project = stride > 1 or is_wider or always
                options = channels, stride, conv, norm, last_scale, project, selective
                x = block(*options, name=f"layer{i + 1}_{j}")(x, train)
            stages.append(x)
        promoted = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return {"features": promoted.mean(axis=(1, 2)), "stages": stages}

    def _stem(
        self, x: jax.Array, conv: ModuleBuilder, norm: ModuleBuilder, train: bool
    ) -> jax.Array:
        base = round(64 * self.width)
        if self.stem == "cifar":
            x = conv(base, (3, 3), padding=((1, 1), (1, 1)), name="conv1")(x)
        elif self.variant == "simclr_sk":
            x = deep_stem(x, base // 2, conv, norm, train)
            x = conv(base, (3, 3), padding=((1, 1), (1, 1)), name="conv1")(x)
        else:
            x = conv(base, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x, train=train))
        if self.stem == "cifar":
            return x
        return max_pool(
            x, 3, 2, 1 if self.variant == "torchvision" else same_padding(x.shape, 3, 2)
        )

    def _check_options(self) -> None:
        if self.stem not in ("imagenet", "cifar"):
            raise UserError(f"stem {self.stem!r} is unknown; use 'imagenet' or 'cifar'")
        variants = _VARIANTS if self.block is Bottleneck else _VARIANTS[:2]
        if self.variant not in variants:
            raise UserError(
                f"variant {self.variant!r} is unknown here; use {' or '.join(variants)}"
            )


def _entry(stage_sizes: Sequence[int], block: type[BasicBlock] | type[Bottleneck]) -> EncoderEntry:
    return EncoderEntry(
        build=functools.partial(ResNet, stage_sizes, block),
        reduced="resnet14" if block is Bottleneck else "resnet10",
        modalities=("image",),
        options=("variant",),
    )


# arXiv 1512.03385, table 1, and ResNet-200 of arXiv 1603.05027; ResNet-10 and -14 have one block
# per stage.
RESNET10 = _entry((1, 1, 1, 1), BasicBlock)
RESNET14 = _entry((1, 1, 1, 1), Bottleneck)
RESNET18 = _entry((2, 2, 2, 2), BasicBlock)
RESNET34 = _entry((3, 4, 6, 3), BasicBlock)
RESNET50 = _entry((3, 4, 6, 3), Bottleneck)
RESNET101 = _entry((3, 4, 23, 3), Bottleneck)
RESNET152 = _entry((3, 8, 36, 3), Bottleneck)
RESNET200 = _entry((3, 24, 36, 3), Bottleneck)
