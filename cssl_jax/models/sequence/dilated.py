"""Dilated residual convolutions of TS2Vec (arXiv 2106.10466)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.dropout import Dropout
from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import masked_max, split_input, with_omitted, zero_outside


def _gelu(x: jax.Array) -> jax.Array:
    """GELU with the error function, as in torch; Flax's default is its tanh approximation."""
    return nn.gelu(x, approximate=False)


class DilatedBlock(nn.Module):
    """GELU, dilated convolution, GELU, dilated convolution, added to the shortcut.

    Attributes:
        channels: Number of output channels.
        dilation: Steps between two taps of the kernels, which have 3.
        projected: True for a learned 1x1 shortcut.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    channels: int
    dilation: int
    projected: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps x [n, T, C], 0 at padding, to [n, T, channels], 0 at padding; mask bool [n, T]."""
        y, pad = x, (self.dilation, self.dilation)
        for name in ("conv1", "conv2"):
            convolution = nn.Conv(
                self.channels,
                (3,),
                padding=(pad,),
                kernel_dilation=(self.dilation,),
                dtype=self.dtype,
                name=name,
            )
            # Padding is what the convolution pads with, so that its amount has no influence.
            y = zero_outside(convolution(_gelu(y)), mask)
        if self.projected:
            x = zero_outside(nn.Dense(self.channels, dtype=self.dtype, name="shortcut")(x), mask)
        return x + y


class DilatedConvolutions(SequenceEncoder):
    """Encoder of TS2Vec (section 3.2): input projection, ``depth`` + 1 blocks of dilation 2^i.

    It has no normalisation. Features are the maximum over the steps of a sequence, [n, 320 width].
    Layers and sizes are those of the reference code (models/encoder.py of zhihanyue/ts2vec), whose
    ten hidden blocks are followed by one of 320 channels with a projected shortcut.

    A token depends on 1 + 4 (2^(depth + 1) - 1) steps of the input around it: 8,189 at depth 10.
    ``keep`` is TS2Vec's timestamp mask: the projected input of an omitted step is 0. Such a step
    still has a token, which its neighbours determine, and counts in the maximum.

    At width 1 and depth 10 it has 637,184 + 64 C parameters for C channels.

    Attributes:
        depth: Number of hidden blocks.
        dropout: Rate of dropout on the tokens in training; 0.1 in the reference code.
    """

    encodes_omitted: ClassVar[bool] = True

    depth: int = 10
    dropout: float = 0.1

    @property
    def num_stages(self) -> int:
        """Number of stages; every block is one."""
        return self.depth + 1

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Block of a parameter from 1, by its path below the encoder; 0 is the projection."""
        name = path[0].key  # input, block1, ...
        return int(name.removeprefix("block")) if name.startswith("block") else 0

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
            Dictionary of "features", float [n, 320 width], "tokens", float [n, T, 320 width], both
            float32 or wider, and "stages", the list of maps [n, T, channels] after each block.

        Raises:
            UserError: ``x`` is no tree of sequences.
            ValueError: ``train`` is True, the rate of dropout is not 0, and there are no keys.
        """
        values, mask = split_input(x)
        y = nn.Dense(self.channels(64), dtype=self.dtype, name="input")(values)
        y = zero_outside(y, with_omitted(mask, keep))
        block, stages = self.block(DilatedBlock), []
        for i in range(self.num_stages):
            last = i == self.depth
            channels = self.channels(320 if last else 64)
            y = block(channels, 2**i, last, self.dtype, name=f"block{i + 1}")(y, mask, train)
            stages.append(y)
        y = Dropout(self.dropout, layer=0)(y, keys, train=train)
        tokens = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return {"features": masked_max(tokens, mask), "tokens": tokens, "stages": stages}


DILATED = sequence_entry(DilatedConvolutions)
