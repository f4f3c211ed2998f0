"""Pre-norm Transformer encoder of sequences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.models.dropout import Dropout, DropPath
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


def attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Scaled dot-product attention to the steps that count.

    ``jax.nn.dot_product_attention`` computes every softmax in float32, in float64 too.

    Args:
        query: float [n, T, heads, c]; ``key`` and ``value`` have the same shape.
        key: See ``query``.
        value: See ``query``.
        mask: bool [n, T], True at the steps that are attended to.

    Returns:
        [n, T, heads, c] in the dtype of ``value``; the softmax is float32 or wider.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, preferred_element_type=wide)
    # Half the lowest number, not minus infinity: a row without any step stays finite, and so does
    # its gradient.
    lowest = jnp.asarray(jnp.finfo(wide).min / 2, wide)
    scores = jnp.where(mask[:, None, None, :], scores / np.sqrt(query.shape[-1]), lowest)
    weights = nn.softmax(scores).astype(value.dtype)
    return jnp.einsum("nhqk,nkhc->nqhc", weights, value)


class TransformerBlock(nn.Module):
    """Self-attention and MLP, each after a LayerNorm and on a residual branch (arXiv 2002.04745).

    Attributes:
        heads: Number of heads of 32 channels each.
        dropout: Rate of dropout on the outputs of both branches.
        drop_path: Rate at which a branch of an example is dropped.
        first: Number of the block's first ``Dropout`` or ``DropPath``; the block has four.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    heads: int
    dropout: float
    drop_path: float
    first: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, train: bool, keys: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [n, T, d] to the same shape; no output depends on steps outside the mask [n, T].

        Outputs at steps outside the mask are finite and arbitrary.
        """

        def norm(name: str) -> nn.LayerNorm:
            # The fast variance E[x^2] - E[x]^2 cancels where the mean is large.
            return nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name=name)

        def branch(y: jax.Array, number: int) -> jax.Array:
            y = Dropout(self.dropout, layer=self.first + number)(y, keys, train=train)
            return DropPath(self.drop_path, layer=self.first + number + 1)(y, keys, train=train)

        n, steps, channels = x.shape
        y = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(norm("norm1")(x))
        query, key, value = (
            part.reshape(n, steps, self.heads, HEAD) for part in jnp.split(y, 3, axis=-1)
        )
        y = attention(query, key, value, mask).reshape(n, steps, channels)
        y = nn.Dense(channels, dtype=self.dtype, name="out")(y)
        x = x + branch(y, 0)
        y = nn.Dense(4 * channels, dtype=self.dtype, name="mlp1")(norm("norm2")(x))
        y = nn.Dense(channels, dtype=self.dtype, name="mlp2")(nn.gelu(y, approximate=False))
        return x + branch(y, 2)


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
