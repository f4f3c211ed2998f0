"""Decoder of masked autoencoders: pixels of the hidden patches from the tokens of the others."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.attention import TransformerBlock
from cssl_jax.models.vit.positions import position_table

_INITIAL = nn.initializers.xavier_uniform()


class PatchDecoder(nn.Module):
    """Transformer over visible tokens and mask tokens (arXiv 2111.06377, sec. 3 and app. A.1).

    Positions are the fixed table ``sincos_mae``; that of the class token is 0.

    Attributes:
        layers: Number of blocks.
        hidden: Number of channels, a multiple of the heads and of 4.
        heads: Number of attention heads.
        remat: True to recompute a block's activations in the backward pass.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    layers: int
    hidden: int
    heads: int
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        order: jax.Array,
        grid: tuple[int, int],
        outputs: int,
        class_token: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Predicts the hidden patches.

        Args:
            tokens: Encoded patches, float [n, V, D].
            order: Numbers of all L patches, the V encoded ones first, int32 [n, L].
            grid: Number of rows and columns of patches, whose product is L.
            outputs: Number of pixels of a patch times channels.
            class_token: Encoded class token, float [n, D]; None: there is none.
            train: Not used; nothing is drawn.

        Returns:
            Predictions for the L - V other patches in the order of ``order``, float32 or wider
            [n, L - V, outputs].
        """
        n, visible, _ = tokens.shape
        prefix = 0 if class_token is None else 1
        if class_token is not None:
            tokens = jnp.concatenate([class_token[:, None], tokens], axis=1)
        embedded = self._dense(self.hidden, "embed")(tokens)
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.hidden,))
        hidden = jnp.broadcast_to(
            token.astype(embedded.dtype), (n, order.shape[1] - visible, self.hidden)
        )
        table = position_table("sincos_mae", *grid, self.hidden)
        positions = jnp.take(jnp.asarray(table, embedded.dtype), order, axis=0)
        # Attention does not depend on the order of its tokens: they stay where they are.
        patches = jnp.concatenate([embedded[:, prefix:], hidden], axis=1) + positions
        y = jnp.concatenate([embedded[:, :prefix], patches], axis=1)
        block = nn.remat(TransformerBlock, static_argnums=(3,)) if self.remat else TransformerBlock
        for i in range(self.layers):
            y = block(
                self.heads,
                0.0,
                0.0,
                first=1 + 4 * i,
                dtype=self.dtype,
                kernel_init=_INITIAL,
                name=f"block{i + 1}",
            )(y, None, train)
        y = y[:, prefix + visible :]
        y = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm")(y)
        y = self._dense(outputs, "pixels")(y)
        return y.astype(jnp.promote_types(y.dtype, jnp.float32))

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, kernel_init=_INITIAL, name=name)
