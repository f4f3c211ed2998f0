"""NT-Xent, the loss of SimCLR, and its metrics."""

import math

import jax
import jax.numpy as jnp

from cssl_jax.losses.core.similarity import Contrast, TileSize
from cssl_jax.losses.core.two_views import two_view_contrast


def nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """Normalised temperature-scaled cross entropy (arXiv 2002.05709, eq. 1 and Alg. 1).

    The loss is the mean over the 2n anchors of this device. Every other row of the global batch is
    a candidate. Identical vectors give the chance level ln(2N - 1). The authors' TensorFlow code
    returns twice this value.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d]; any norm.
        z2: Projections of the second view, float [n, d]; row i is the positive of row i of z1.
        temperature: tau > 0, a number or a traced scalar. A traced scalar receives its gradient.
        axis_name: Mapped axis that the batch is split over; None on a single device. Differentiate
            the returned local loss, then average the gradients over the axis (``pmean``).
        tile_size: None holds the [2n, 2N] similarities. A number computes them in tiles of that
            side, and "auto" uses tiles for large matrices. With tiles, memory grows with N instead
            of N^2, and the gradient is exact if the local loss has the same cotangent on every
            device (see ``two_view_contrast``).

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, the temperature is a number that is not positive, or a tiled
            loss is differentiated twice.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(2)  # two examples, both views alike: ln(e + 2) - 1
        >>> round(float(nt_xent(z, z, temperature=1.0)), 4)
        0.5514
        >>> z = jnp.ones((2, 8))  # the chance level, ln 3
        >>> round(float(nt_xent(z, z)), 4)
        1.0986
    """
    return loss_from(
        two_view_contrast(z1, z2, temperature=temperature, axis_name=axis_name, tile_size=tile_size)
    )


def loss_from(contrast: Contrast) -> jax.Array:
    """Mean over the anchors of this device of -log softmax at the positive; float scalar."""
    return contrast.mean_log_sum_exp - jnp.mean(contrast.positive)


def accuracy_from(contrast: Contrast) -> jax.Array:
    """Fraction of this device's anchors that are nearer to their positive than to any negative."""
    return jnp.mean(contrast.positive > contrast.hardest_negative)


def entropy_from(contrast: Contrast) -> jax.Array:
    """Entropy in nats of the softmax over the candidates, averaged over this device's anchors."""
    return jnp.mean(contrast.log_sum_exp - contrast.expected)


def chance_level(batch_size: int) -> float:
    """Loss of an encoder that cannot discriminate examples: ln(2N - 1) for global batch size N."""
    return math.log(2 * batch_size - 1)
