"""NT-Xent, the loss of SimCLR."""

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

    The mean over the 2n anchors of this device; every other row of the global batch is a candidate.
    Equal vectors give the chance level ln(2N - 1). The authors' TensorFlow code returns twice this
    value.

    Args:
        z1: Projections of the first view, this device's rows, [n, d]; of any length.
        z2: Projections of the second view, [n, d]; row i is the positive of row i of z1.
        temperature: tau > 0, a number or a traced scalar (which gets its gradient).
        axis_name: Mapped axis that the batch is split over; None on one device. Differentiate
            the returned share itself, then average the gradients over the axis (``pmean``).
        tile_size: None holds the [2n, 2N] similarities; a number takes them in tiles of that side,
            "auto" where they are many. In tiles, memory grows with N instead of N^2, and the
            gradient is exact where the returned share has the same cotangent on every device (see
            ``two_view_contrast``).

    Returns:
        Scalar, at least float32.

    Raises:
        UserError: Shapes differ, a temperature known beforehand is not positive, or a loss in tiles
            is differentiated twice.
    """
    return loss_from(
        two_view_contrast(z1, z2, temperature=temperature, axis_name=axis_name, tile_size=tile_size)
    )


def loss_from(seen: Contrast) -> jax.Array:
    """Mean over this device's anchors of -log softmax at the positive."""
    return seen.mean_log_sum_exp - jnp.mean(seen.positive)


def accuracy_from(seen: Contrast) -> jax.Array:
    """Share of this device's anchors that are nearer to their positive than to any negative."""
    return jnp.mean(seen.positive > seen.hardest_negative)


def entropy_from(seen: Contrast) -> jax.Array:
    """Mean entropy, in nats, of this device's anchors' softmax over their candidates."""
    return jnp.mean(seen.log_sum_exp - seen.expected)


def chance_level(batch_size: int) -> float:
    """Loss of an encoder that cannot tell examples apart: ln(2N - 1) for a global batch N."""
    return math.log(2 * batch_size - 1)
