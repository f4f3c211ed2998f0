"""Strided convolutions, then a GRU over their outputs: the encoder of CPC (arXiv 1807.03748)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import (
    masked_mean,
    split_input,
    strided,
    with_omitted,
    zero_outside,
)
from cssl_jax.models.sequence.recurrent import RecurrentLayer


class StridedBlock(nn.Module):
    """Convolution with a stride, LayerNorm over the channels of each step, ReLU.

    Attributes:
        channels: Number of output channels.
        kernel: Steps that an output sees.
        stride: Steps between two outputs.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    channels: int
    kernel: int
    stride: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, T, C], 0 at padding, to [n, ceil(T / stride), channels], 0 at padding.

        Args:
            x: Inputs.
            mask: bool [n, ceil(T / stride)], True at the outputs that count.
            train: Not used.
        """
        # In total one step less than the kernel, so that there are ceil(T / stride) outputs.
        pad = ((self.kernel - 1) // 2, self.kernel // 2)
        convolution = nn.Conv(
            self.channels,
            (self.kernel,),
            (self.stride,),
            padding=(pad,),
            dtype=self.dtype,
            name="conv",
        )
        # The norm of each step alone: steps at padding must not enter the statistics of others.
        norm = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm")
        return zero_outside(nn.relu(norm(convolution(x))), mask)


class ConvGRU(SequenceEncoder):
    """Strided convolutions z, and a GRU c over them from the first step to the last.

    Features are the mean of the GRU's outputs over the steps that count, [n, 128 width]. There are
    no "tokens": an output stands for 4 steps of the input, or 160 of "wave_gru". A length L becomes
    ceil(L / s) at every stride s. Steps that ``keep`` omits are 0 for the first convolution.

    The paper encodes sound at 16 kHz by five convolutions with strides 5, 4, 2, 2, 2 and a GRU of
    256: encoder "wave_gru", at 128 channels per unit of width in place of the paper's 512. Series
    have tens to hundreds of steps, so "conv_gru" has two convolutions of stride 2, whose kernels of
    3 overlap neighbours by one step.

    At width 1 it has 148,736 + 384 C parameters for C channels.

    Attributes:
        strides: Stride of every convolution.
        kernels: Kernel size of every convolution.
    """

    strides: Sequence[int] = (2, 2)
    kernels: Sequence[int] = (3, 3)

    @property
    def num_stages(self) -> int:
        """Number of stages: every convolution, and the GRU."""
        return len(self.strides) + 1

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Stage of a parameter from 1, by its path below the encoder."""
        name = path[0].key  # block1, ..., context
        return self.num_stages if name == "context" else int(name.removeprefix("block"))

    @nn.compact
    def __call__(
        self,
        x: Any,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes sequences, see ``SequenceEncoder``.

        Returns:
            Dictionary of "features", float [n, D], "latents", the outputs z of the convolutions,
            float [n, T', D], "contexts", the outputs c of the GRU, float [n, T', D], all of them
            float32 or wider, "steps", the number of outputs that count, int32 [n], and "stages",
            the list of the outputs of each convolution and of the GRU.

        Raises:
            UserError: ``x`` is no tree of sequences.
        """
        y, mask = split_input(x)
        mask = with_omitted(mask, keep)
        y = zero_outside(y, mask)
        block, stages, channels = self.block(StridedBlock), [], self.channels(128)
        for i, (kernel, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            mask = strided(mask, stride)
            y = block(channels, kernel, stride, self.dtype, name=f"block{i + 1}")(y, mask, train)
            stages.append(y)
        layer = self.block(RecurrentLayer)
        contexts, _ = layer(channels, "gru", False, self.dtype, name="context")(y, mask, train)
        latents = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return {
            "features": masked_mean(contexts, mask),
            "latents": latents,
            "contexts": contexts,
            "steps": mask.sum(axis=1, dtype=jnp.int32),
            "stages": [*stages, contexts],
        }


CONV_GRU = sequence_entry(ConvGRU)
WAVE_GRU = sequence_entry(
    ConvGRU, modalities=("audio",), strides=(5, 4, 2, 2, 2), kernels=(10, 8, 4, 4, 4)
)
