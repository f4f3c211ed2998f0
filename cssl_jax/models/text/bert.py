"""BERT (arXiv 1810.04805): a post-norm Transformer encoder of tokens."""

from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.series.batched import step_mask
from cssl_jax.errors import UserError
from cssl_jax.models.base import class_entry
from cssl_jax.models.dropout import Dropout
from cssl_jax.models.registry import EncoderEntry
from cssl_jax.models.sequence.base import SequenceEncoder
from cssl_jax.models.sequence.masks import masked_mean, with_omitted, zero_outside

POSITIONS = 512  # number of learnt positions, and so the maximum number of tokens
TYPES = 2  # number of token types; text of one segment has type 0
EPSILON = 1e-12  # of every LayerNorm; Flax's default is 1e-6
_INITIAL = nn.initializers.normal(0.02)  # the truncation of BERT's code at 0.04 is omitted


class Bert(SequenceEncoder):
    """Word, position and type embeddings, post-norm blocks, mean over the tokens.

    It is called with x = {"tokens": int [n, T], "length": int32 [n]}, T at most 512. Tokens from a
    length on may hold any valid number: they and T have no influence on the features. Tokens that
    ``keep``, bool [n, T], omits are not attended to and not averaged; the others keep their
    positions. Features are the mean of the last block's tokens, [n, hidden], as those of
    sentence-transformers with mean pooling.

    Every number is that of BERT: LayerNorm with epsilon 1e-12 after each residual sum, exact GELU,
    learnt positions, initial weights of standard deviation 0.02, dropout of the embeddings, the
    attention weights and the outputs of both branches.

    A block has 4 d^2 + 2 d m + 9 d + m parameters with d = ``hidden`` and m = ``inner``; the
    embeddings have (vocabulary + 516) d.

    Attributes:
        layers: Number of blocks.
        hidden: Number of channels at width 1; ``width`` multiplies it.
        heads: Number of attention heads.
        inner: Width of the MLPs at width 1.
        vocabulary: Number of tokens.
        dropout: Rate of dropout in training.
    """

    layers: int = 2
    hidden: int = 128
    heads: int = 2
    inner: int = 512
    vocabulary: int = 8192
    dropout: float = 0.1

    @property
    def num_stages(self) -> int:
        """Number of blocks."""
        return self.layers

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Block of a parameter from 1, by its path below the encoder; 0 is the embeddings."""
        name = path[0].key  # word, position, type, norm, block1, ...
        return int(name.removeprefix("block")) if name.startswith("block") else 0

    @nn.compact
    def __call__(
        self,
        x: Any,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes tokens.

        Returns:
            Dictionary of "features", float [n, d], "tokens", float [n, T, d], both float32 or
            wider, and "stages", the list of maps [n, T, d] after each block, 0 at padding.

        Raises:
            UserError: ``x`` is no tree of tokens, or has more than 512 of them.
            ValueError: ``train`` is True, the rate is not 0, and there are no keys.
        """
        tokens, mask = _split_tokens(x)
        mask = with_omitted(mask, keep)
        width = max(1, round(self.hidden * self.width / self.heads)) * self.heads
        y = _embedding(self.vocabulary, width, "word", self.dtype)(tokens)
        y = y + _embedding(POSITIONS, width, "position", self.dtype)(jnp.arange(tokens.shape[1]))
        y = y + _embedding(TYPES, width, "type", self.dtype)(jnp.zeros((), jnp.int32))
        y = _norm("norm", self.dtype)(y)
        y = Dropout(self.dropout, layer=0)(y, keys, train=train)
        block, stages = self.block(BertBlock), []
        inner = self.channels(self.inner)
        for i in range(self.layers):
            made = block(
                self.heads, inner, self.dropout, 1 + 3 * i, self.dtype, name=f"block{i + 1}"
            )
            y = made(y, mask, train, keys)
            stages.append(zero_outside(y, mask))
        encoded = stages[-1].astype(jnp.promote_types(y.dtype, jnp.float32))
        return {"features": masked_mean(encoded, mask), "tokens": encoded, "stages": stages}


class BertBlock(nn.Module):
    """Self-attention and MLP, a LayerNorm after each residual sum.

    Attributes:
        heads: Number of attention heads.
        inner: Width of the MLP.
        dropout: Rate of dropout on the attention weights and on the outputs of both branches.
        first: Number of the block's first ``Dropout``; the block has three.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    heads: int
    inner: int
    dropout: float
    first: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, train: bool, keys: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [n, T, d] to the same shape; no output depends on tokens outside the mask [n, T].

        Outputs outside the mask are finite and arbitrary.
        """
        n, steps, channels = x.shape

        def dense(name: str, width: int = channels) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=_INITIAL, name=name)

        def drop(y: jax.Array, number: int) -> jax.Array:
            return Dropout(self.dropout, layer=self.first + number)(y, keys, train=train)

        query, key, value = (
            dense(name)(x).reshape(n, steps, self.heads, -1) for name in ("query", "key", "value")
        )
        wide = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, preferred_element_type=wide)
        # Half the lowest number, not minus infinity: a row without any token stays finite, and so
        # does its gradient.
        lowest = jnp.asarray(jnp.finfo(wide).min / 2, wide)
        scores = jnp.where(mask[:, None, None, :], scores / np.sqrt(query.shape[-1]), lowest)
        weights = drop(nn.softmax(scores).astype(value.dtype), 0)
        y = jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(n, steps, channels)
        x = _norm("norm1", self.dtype)(x + drop(dense("out")(y), 1))
        y = nn.gelu(dense("mlp1", self.inner)(x), approximate=False)
        encoded: jax.Array = _norm("norm2", self.dtype)(x + drop(dense("mlp2")(y), 2))
        return encoded


def _embedding(count: int, width: int, name: str, dtype: Any) -> nn.Embed:
    return nn.Embed(count, width, dtype=dtype, embedding_init=_INITIAL, name=name)


def _norm(name: str, dtype: Any) -> nn.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 cancels where the mean is large.
    return nn.LayerNorm(EPSILON, use_fast_variance=False, dtype=dtype, name=name)


def _split_tokens(x: Any) -> tuple[jax.Array, jax.Array]:
    """Tokens int [n, T] and padding mask bool [n, T] of an encoder's input."""
    if not isinstance(x, Mapping) or not {"tokens", "length"} <= set(x):
        given = f"a tree of {', '.join(x)}" if isinstance(x, Mapping) else f"shape {jnp.shape(x)}"
        raise UserError(
            f"this encoder takes text, tokens [n, T] and length [n], and was given {given}; for "
            "images use an image encoder, such as --model.encoder resnet18"
        )
    tokens, length = x["tokens"], x["length"]
    chex.assert_rank([tokens, length], [2, 1])
    if tokens.shape[1] > POSITIONS:
        raise UserError(
            f"text has up to {tokens.shape[1]} tokens, and the encoder has {POSITIONS} positions; "
            f"give --data.length {POSITIONS} or less"
        )
    return tokens, step_mask(length, tokens.shape[1])


def bert_entry(layers: int, hidden: int, heads: int) -> EncoderEntry:
    """Registry entry of a BERT of one size, whose MLPs are four times as wide as its tokens."""
    return class_entry(
        Bert,
        ("text",),
        reduced="bert_tiny",
        layers=layers,
        hidden=hidden,
        heads=heads,
        inner=4 * hidden,
    )


# The sizes of arXiv 1908.08962; MiniLM is that of arXiv 2002.10957 with 6 layers.
BERT_TINY = bert_entry(2, 128, 2)
BERT_MINI = bert_entry(4, 256, 4)
BERT_SMALL = bert_entry(4, 512, 8)
BERT_BASE = bert_entry(12, 768, 12)
MINILM = bert_entry(6, 384, 12)
