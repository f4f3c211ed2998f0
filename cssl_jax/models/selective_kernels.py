"""Selective kernels and ResNet-D's stem and shortcut, as the code of SimCLRv2 defines them.

Layers are called below a module's compact method, with its builders of convolutions and norms.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ModuleBuilder = Callable[..., Any]

_RATIO = 0.0625  # width of the squeezed features relative to a branch: sk_ratio of SimCLRv2
_MINIMUM = 32  # smallest width of the squeezed features
_PAD = ((1, 1), (1, 1))


def squeezed_width(channels: int) -> int:
    """Width of the layer between the pooled branches and their weights."""
    return max(int(channels * _RATIO), _MINIMUM)


def selective_convolution(
    x: jax.Array,
    channels: int,
    stride: int,
    conv: ModuleBuilder,
    norm: ModuleBuilder,
    train: bool,
) -> jax.Array:
    """Two 3x3 convolutions whose outputs are mixed by weights per example and channel.

    Both branches are one convolution of twice the width, with BatchNorm and ReLU. The mean of
    their sum over positions gives the weights by two 1x1 convolutions and a softmax over the
    branches (arXiv 1903.06586; SimCLRv2, arXiv 2006.10029, sec. 3.1, and ``sk_conv2d`` of its
    code). There are no biases besides those of BatchNorm.

    Args:
        x: Feature maps, float [n, H, W, C].
        channels: Channels of each branch and of the output.
        stride: Stride of the 3x3 convolution.
        conv: Builder of convolutions.
        norm: Builder of BatchNorm.
        train: True to use batch statistics.

    Returns:
        Feature maps [n, ceil(H / stride), ceil(W / stride), channels].
    """
    strides = (stride, stride)
    y = conv(2 * channels, (3, 3), strides=strides, padding=_PAD, name="conv2")(x)
    y = nn.relu(norm(name="bn2")(y, train=train))
    first, second = jnp.split(y, 2, axis=-1)
    pooled = (first + second).mean(axis=(1, 2), keepdims=True)
    squeezed = conv(squeezed_width(channels), (1, 1), name="squeeze_conv")(pooled)
    squeezed = nn.relu(norm(name="squeeze_bn")(squeezed, train=train))
    logits = conv(2 * channels, (1, 1), name="mix_conv")(squeezed)
    # The softmax over two branches is the logistic function of the difference of their logits.
    weight = nn.sigmoid(logits[..., :channels] - logits[..., channels:])
    mixed: jax.Array = weight * first + (1 - weight) * second
    return mixed


def deep_stem(
    x: jax.Array, channels: int, conv: ModuleBuilder, norm: ModuleBuilder, train: bool
) -> jax.Array:
    """ResNet-D's first two 3x3 convolutions, the first with stride 2 (arXiv 1812.01187, fig. 2c).

    Args:
        x: Images, float [n, H, W, C].
        channels: Channels of both convolutions.
        conv: Builder of convolutions.
        norm: Builder of BatchNorm.
        train: True to use batch statistics.

    Returns:
        Feature maps [n, ceil(H / 2), ceil(W / 2), channels].
    """
    for number, strides in ((1, (2, 2)), (2, (1, 1))):
        name = f"stem_conv{number}"
        x = conv(channels, (3, 3), strides=strides, padding=_PAD, name=name)(x)
        x = nn.relu(norm(name=f"stem_bn{number}")(x, train=train))
    return x


def shortcut_pool(x: jax.Array, stride: int) -> jax.Array:
    """Means of 2x2 positions before the 1x1 convolution of ResNet-D's shortcut.

    SimCLRv2's code pads one row below and one column to the right. With stride 2 these zeros count
    in the mean. With stride 1 they do not: TensorFlow's "SAME" averages over positions that exist.

    Args:
        x: Feature maps, float [n, H, W, C].
        stride: 1 or 2.

    Returns:
        Feature maps [n, ceil(H / stride), ceil(W / stride), C].
    """
    means: jax.Array = nn.avg_pool(
        x,
        (2, 2),
        strides=(stride, stride),
        padding=((0, 1), (0, 1)),
        count_include_pad=stride > 1,
    )
    return means
