"""Pre-norm Transformer encoder of sequences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.models.attention import TransformerBlock
from cssl_jax.models.dropout import Dropout
from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import masked_mean, split_input, with_omitted, zero_outside

HEAD = 32  # channels per head


def sinusoids(steps: int, channels: int) -> np.ndarray:
    """Position codes of arXiv 1706.03762, sec. 3.5, with all sines before all cosines.

    Args:
        steps: Number of positions T.
        channels: Number of channels d, even.

    Returns:
        float64 [T, d]: sines, then cosines, of the position over 10,000^(2 i / d).
    """
    rates = 10_000.0 ** (-np.arange(0, channels, 2) / channels)
    angles = np.arange(steps)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


class Transformer(SequenceEncoder):
    """Input projection, position codes, pre-norm blocks, LayerNorm, mean over the steps.

    Features are the mean of the tokens that count, [n, d] with d = 32 heads; there is no class
    token. Positions are sinusoids, not learned: they exist for every number of steps, add no
    parameter, and none is untrained where test sequences are longer than training views. Steps that
    ``keep`` omits are not attended to and not averaged; the others keep their positions.

    Memory of attention grows with heads T^2. With C input channels a layer has 12 d^2 + 13 d
    parameters. At width 1, d = 128, and with 4 layers it has 793,472 + 128 C in all.

    Attributes:
        layers: Number of blocks.
        dropout: Rate of dropout after the position codes and on every branch in training; 0.1 in
            arXiv 1706.03762. Attention weights are not dropped.
        drop_path: Rate of stochastic depth of the last block; it grows linearly from 0 in the first
            block (arXiv 1603.09382).
    """

    layers: int = 4
    dropout: float = 0.1
    drop_path: float = 0.0

    @property
    def num_stages(self) -> int:
        """Number of stages; every block is one."""
        return self.layers

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Block of a parameter from 1, by its path below the encoder; 0 is the projection.

        The last LayerNorm belongs to the last block.
        """
        name = path[0].key  # input, block1, ..., norm
        if name == "norm":
            return self.layers
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
            Dictionary of "features", float [n, d], "tokens", float [n, T, d], both float32 or
            wider, and "stages", the list of maps [n, T, d] after each block, 0 at padding.

        Raises:
            UserError: ``x`` is no tree of sequences.
            ValueError: ``train`` is True, a rate is not 0, and there are no keys.
        """
        values, mask = split_input(x)
        mask = with_omitted(mask, keep)
        heads = self.channels(4)
        y = nn.Dense(heads * HEAD, dtype=self.dtype, name="input")(values)
        y = y + jnp.asarray(sinusoids(y.shape[1], y.shape[2]), y.dtype)
        y = Dropout(self.dropout, layer=0)(y, keys, train=train)
        block, stages = self.block(TransformerBlock), []
        for i, rate in enumerate(np.linspace(0, self.drop_path, self.layers).tolist()):
            made = block(heads, self.dropout, rate, 1 + 4 * i, self.dtype, name=f"block{i + 1}")
            y = made(y, mask, train, keys)
            stages.append(zero_outside(y, mask))
        y = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm")(y)
        tokens = zero_outside(y.astype(jnp.promote_types(y.dtype, jnp.float32)), mask)
        return {"features": masked_mean(tokens, mask), "tokens": tokens, "stages": stages}


TRANSFORMER = sequence_entry(Transformer)
