"""Decoupled contrastive learning (DCL): NT-Xent without the positive in the denominator."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import TileSize, check_positive, gather
from cssl_jax.losses.core.two_views import two_view_contrast


def dcl(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    sigma: float | None = None,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """DCL and, with ``sigma``, DCL-W (arXiv 2110.06848, eq. 6 and section 3.2).

    The loss is the mean over the 2n anchors of this device of -w s_positive + log-sum-exp(s) over
    the 2N - 2 negatives, where s is the cosine similarity divided by the temperature. DCL has
    w = 1. DCL-W has w = 2 - exp(c / sigma) / mean exp(c / sigma), where c is the cosine of the
    positive and the mean is over the global batch. No gradient flows through w. The loss can be
    negative, because the denominator does not contain the positive.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d].
        z2: Projections of the second view, float [n, d]; row i is the positive of row i of z1.
        temperature: Positive divisor of the cosine similarity, a number or a traced scalar.
        sigma: Width of the DCL-W weights (0.5 in the paper). None: DCL, all weights are 1.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, a number is out of range, or the global batch has one pair and
            therefore no negative.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(2)  # two examples, both views alike: ln 2 - 1
        >>> round(float(dcl(z, z, temperature=1.0)), 4)
        -0.3069
    """
    pairs = len(z1) * (1 if axis_name is None else lax.axis_size(axis_name))
    if pairs < 2:
        raise UserError("DCL of one pair has no negative; give a global batch of 2 or more")
    contrast = two_view_contrast(
        z1,
        z2,
        temperature=temperature,
        axis_name=axis_name,
        tile_size=tile_size,
        positive_in_sum=False,
    )
    if sigma is None:
        return contrast.mean_log_sum_exp - jnp.mean(contrast.positive)
    check_positive(sigma=sigma)
    positive_cosine = lax.stop_gradient(contrast.positive[: len(z1)] * temperature)
    global_logits = gather(positive_cosine, axis_name) / sigma
    weight = 2 - pairs * jnp.exp(positive_cosine / sigma - jax.nn.logsumexp(global_logits))
    return contrast.mean_log_sum_exp - jnp.mean(jnp.tile(weight, 2) * contrast.positive)
