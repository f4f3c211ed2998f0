"""Decoupled contrastive learning: NT-Xent without the positive in the sum."""

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

    The mean over this device's 2n anchors of -w s_positive + log-sum-exp over the 2N - 2 negatives,
    s being the cosine similarity over the temperature. DCL has w = 1; DCL-W has w = 2 -
    exp(c / sigma) / mean exp(c / sigma), c the positive's cosine and the mean over the global
    batch, and takes w as given (no gradient). It does not stop at 0: the positive is no share of
    its sum.

    Args:
        z1: Projections of the first view, this device's rows, [n, d].
        z2: Of the second, [n, d].
        temperature: As in ``nt_xent``.
        sigma: Of the weights; the paper's DCL-W has 0.5. None weighs all alike.
        axis_name: As in ``nt_xent``.
        tile_size: As in ``nt_xent``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: As ``nt_xent``; or the global batch has one pair, which leaves no negative.
    """
    pairs = len(z1) * (1 if axis_name is None else lax.axis_size(axis_name))
    if pairs < 2:
        raise UserError("DCL of one pair has no negative; give a global batch of 2 or more")
    seen = two_view_contrast(
        z1,
        z2,
        temperature=temperature,
        axis_name=axis_name,
        tile_size=tile_size,
        positive_in_sum=False,
    )
    if sigma is None:
        return seen.mean_log_sum_exp - jnp.mean(seen.positive)
    check_positive(sigma=sigma)
    cosine = lax.stop_gradient(seen.positive[: len(z1)] * temperature)
    everyone = gather(cosine, axis_name) / sigma
    weight = 2 - pairs * jnp.exp(cosine / sigma - jax.nn.logsumexp(everyone))
    return seen.mean_log_sum_exp - jnp.mean(jnp.tile(weight, 2) * seen.positive)
