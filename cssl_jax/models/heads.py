"""Projection heads: what is trained on top of the encoder and thrown away."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.normalization import BatchNorm


class ProjectionHead(nn.Module):
    """MLP g(h) of SimCLR (arXiv 2002.05709, sec. 4.2): 2 layers; SimCLRv2 has 3.

    Attributes:
        layers: 1 (linear) to 3 dense layers with ReLU between them.
        hidden: Width of the hidden layers; 0 is the width of the features, as in the paper.
        out: Projection width d.
        keep: Layers that are applied, hidden ones with their ReLU; None is all.
        norm: BatchNorm after every layer, the last without a bias, as in the paper's code.
        axis_name: Mapped axis of cross-replica BatchNorm, or None.
        norm_groups: Groups of the global batch with BatchNorm statistics of their own.
        norm_momentum: Share of BatchNorm's running statistics that survives a step.
        dtype: Compute dtype; None follows the input and the parameters.
    """

    layers: int = 2
    hidden: int = 0
    out: int = 128
    keep: int | None = None
    norm: bool = True
    axis_name: str | None = None
    norm_groups: int = 1
    norm_momentum: float = 0.9
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Features [n, D] -> projections [n, d], at least float32, not of unit length."""
        x = features
        hidden = self.hidden or features.shape[-1]
        for i in range(self.layers if self.keep is None else self.keep):
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
