"""NT-Xent with negatives that are weighted by their hardness."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.losses.core.row_sums import Terms, sum_rows
from cssl_jax.losses.core.similarity import TileSize, check_positive, choose_tile
from cssl_jax.losses.core.two_views import is_negative, lay_out


def hard_nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    beta: float | jax.Array = 1.0,
    tau_plus: float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """Contrastive loss with hard negatives (Robinson et al., arXiv 2010.04592, eq. 4).

    Let s be the cosine divided by the temperature t, and M = 2N - 2 the number of negatives. The
    loss of an anchor is -log(e^s+ / (e^s+ + G)), where s+ belongs to the positive and
    G = (M sum(e^((1 + beta) s)) / sum(e^(beta s)) - tau_plus M e^s+) / (1 - tau_plus), at least
    M e^(-1/t). The sums are over the negatives. The result is the mean over the 2n anchors of this
    device. beta = 0 gives the debiased loss (arXiv 2007.00224), and tau_plus = 0 in addition gives
    NT-Xent.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d].
        z2: Projections of the second view, float [n, d]; row i is the positive of row i of z1.
        temperature: Positive divisor t of the cosine; 0.5 in the paper's image experiments.
        beta: Concentration on hard negatives, 0 or more; 0 weights all negatives equally.
        tau_plus: Expected fraction of negatives that have the anchor's class, within [0, 1).
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, a number is out of range, or the global batch has one pair and
            therefore no negative.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(2)  # without weights it is NT-Xent, here ln(e + 2) - 1
        >>> round(float(hard_nt_xent(z, z, temperature=1.0, beta=0.0, tau_plus=0.0)), 4)
        0.5514
    """
    check_positive(temperature=temperature)
    if isinstance(beta, int | float) and not beta >= 0:
        raise UserError(f"beta is {beta}; give 0 or more")
    if not 0 <= tau_plus < 1:
        raise UserError(f"tau_plus is {tau_plus}; give a fraction within [0, 1)")
    views = lay_out(z1, z2, axis_name)
    count = len(views.candidates) - 2
    if count < 1:
        raise UserError("one pair has no negative; give a global batch of 2 or more")
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    sums = sum_rows(
        Terms(log_sum_exp=(_weighted_logit, _weight_logit)),
        views.anchors,
        views.candidates,
        rows=(views.own, views.partner),
        columns=jnp.arange(len(views.candidates), dtype=jnp.int32),
        scalars=(scale, beta),
        tile=choose_tile(tile_size, len(views.anchors), len(views.candidates)),
    )
    log_weighted, log_weights = sums.log_sum_exp
    positive = views.positive * scale
    log_reweighted = log_weighted - log_weights + math.log(count)
    # At a temperature of 0.01 the exponentials overflow float32. All of them are therefore divided
    # by e^top, the larger of the two terms.
    top = jax.lax.stop_gradient(jnp.maximum(positive, log_reweighted))
    debiased = jnp.exp(log_reweighted - top) - tau_plus * count * jnp.exp(positive - top)
    minimum = count * jnp.exp(-scale - top)
    negatives = jnp.maximum(debiased / (1 - tau_plus), minimum)
    return jnp.mean(jnp.log(jnp.exp(positive - top) + negatives) + top - positive)


def _weighted_logit(similarity: jax.Array, row: Any, column: jax.Array, scalars: Any) -> jax.Array:
    scale, beta = scalars
    return jnp.where(is_negative(row, column), (1 + beta) * scale * similarity, -jnp.inf)


def _weight_logit(similarity: jax.Array, row: Any, column: jax.Array, scalars: Any) -> jax.Array:
    scale, beta = scalars
    return jnp.where(is_negative(row, column), beta * scale * similarity, -jnp.inf)
