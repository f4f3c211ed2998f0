"""Attention and the pre-norm Transformer block of sequences and of patches of an image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.models.dropout import Dropout, DropPath


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Scaled dot-product attention to the steps that count.

    ``jax.nn.dot_product_attention`` computes every softmax in float32, in float64 too.

    Args:
        query: float [n, T, heads, c]; ``key`` and ``value`` have the same shape.
        key: See ``query``.
        value: See ``query``.
        mask: bool [n, T], True at the steps that are attended to; None: all of them are.

    Returns:
        [n, T, heads, c] in the dtype of ``value``; the softmax is float32 or wider.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, preferred_element_type=wide)
    scores = scores / np.sqrt(query.shape[-1])
    if mask is not None:
        # Half the lowest number, not minus infinity: a row without any step stays finite, and so
        # does its gradient.
        lowest = jnp.asarray(jnp.finfo(wide).min / 2, wide)
        scores = jnp.where(mask[:, None, None, :], scores, lowest)
    weights = nn.softmax(scores).astype(value.dtype)
    return jnp.einsum("nhqk,nkhc->nqhc", weights, value)


class TransformerBlock(nn.Module):
    """Self-attention and MLP, each after a LayerNorm and on a residual branch (arXiv 2002.04745).

    The MLP is four times as wide as the block, with the exact GELU. LayerNorm's epsilon is 1e-6.

    Attributes:
        heads: Number of heads; it divides the number of channels.
        dropout: Rate of dropout on the outputs of both branches.
        drop_path: Rate at which a branch of an example is dropped.
        first: Number of the block's first ``Dropout`` or ``DropPath``; the block has four.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
        kernel_init: Initialisation of the dense layers.
        layer_scale: Initial value of the factors per channel on both branches (LayerScale,
            arXiv 2103.17239, sec. 2.1); 0: there are none.
    """

    heads: int
    dropout: float
    drop_path: float
    first: int
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    layer_scale: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, train: bool, keys: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [n, T, d] to the same shape; no output depends on steps outside the mask [n, T].

        Outputs at steps outside the mask are finite and arbitrary. None: all steps count.
        """
        n, steps, channels = x.shape

        def norm(name: str) -> nn.LayerNorm:
            # The fast variance E[x^2] - E[x]^2 cancels where the mean is large.
            return nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name=name)

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name=name)

        def branch(y: jax.Array, number: int) -> jax.Array:
            if self.layer_scale:
                initial = nn.initializers.constant(self.layer_scale)
                y = y * self.param(f"scale{number // 2 + 1}", initial, (channels,)).astype(y.dtype)
            y = Dropout(self.dropout, layer=self.first + number)(y, keys, train=train)
            return DropPath(self.drop_path, layer=self.first + number + 1)(y, keys, train=train)

        y = dense(3 * channels, "qkv")(norm("norm1")(x))
        query, key, value = (
            part.reshape(n, steps, self.heads, channels // self.heads)
            for part in jnp.split(y, 3, axis=-1)
        )
        if not self.is_initializing():
            # Kept only if a caller makes the collection mutable, as a sheet of the attention does.
            self.sow("attention", "query", query)
            self.sow("attention", "key", key)
        y = attention(query, key, value, mask).reshape(n, steps, channels)
        y = dense(channels, "out")(y)
        x = x + branch(y, 0)
        y = dense(4 * channels, "mlp1")(norm("norm2")(x))
        y = dense(channels, "mlp2")(nn.gelu(y, approximate=False))
        return x + branch(y, 2)
