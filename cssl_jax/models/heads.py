"""Projection head: network on top of the encoder that is discarded after pretraining."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.normalization import BatchNorm


class ProjectionHead(nn.Module):
    """MLP g(h) of SimCLR (arXiv 2002.05709, sec. 4.2) with 2 layers; SimCLRv2 uses 3.

    Attributes:
        layers: Number of dense layers, 1 (linear) to 3, with ReLU between them.
        hidden: Width of the hidden layers; 0: the width of the features, as in the paper.
        out: Width d of the projections.
        num_applied_layers: Number of leading layers to apply, hidden ones with their ReLU; None:
            all layers.
        norm: True for BatchNorm after every layer, as in the paper's code. The last BatchNorm has
            no bias.
        axis_name: Mapped axis of cross-replica BatchNorm; None on a single device.
        norm_groups: Number of groups of the global batch with separate BatchNorm statistics.
        norm_momentum: Fraction of BatchNorm's running statistics that is retained per step.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    layers: int = 2
    hidden: int = 0
    out: int = 128
    num_applied_layers: int | None = None
    norm: bool = True
    axis_name: str | None = None
    norm_groups: int = 1
    norm_momentum: float = 0.9
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Maps features [n, D] to projections [n, d] of any norm, float32 or wider."""
        chex.assert_rank(features, 2)
        x = features
        hidden = self.hidden or features.shape[-1]
        for i in range(self.layers if self.num_applied_layers is None else self.num_applied_layers):
            last = i == self.layers - 1
            x = nn.Dense(
                self.out if last else hidden,
                use_bias=not self.norm,
                dtype=self.dtype,
                name=f"dense{i + 1}",
            )(x)
            if self.norm:
                x = BatchNorm(
                    axis_name=self.axis_name,
                    groups=self.norm_groups,
                    momentum=self.norm_momentum,
                    use_bias=not last,
                    dtype=self.dtype,
                    name=f"bn{i + 1}",
                )(x, train=train)
            if not last:
                x = nn.relu(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
