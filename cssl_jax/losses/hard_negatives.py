"""NT-Xent with its negatives weighted by how hard they are."""

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

    With s the cosine over the temperature t and M = 2N - 2 negatives, -log(e^s+ / (e^s+ + G)) where
    G = (M sum(e^((1 + beta) s)) / sum(e^(beta s)) - tau_plus M e^s+) / (1 - tau_plus), no less than
    M e^(-1/t); the sums are over the negatives. Mean over this device's 2n anchors. beta = 0 is the
    debiased loss (arXiv 2007.00224), and with tau_plus = 0 it is NT-Xent.

    Args:
        z1: Projections of the first view, this device's rows, [n, d].
        z2: Of the second, [n, d].
        temperature: t; 0.5 in the paper's experiments on pictures.
        beta: Concentration on hard negatives, 0 or more.
        tau_plus: Share of negatives that are expected to be of the anchor's class, within [0, 1).
        axis_name: As in ``nt_xent``.
        tile_size: As in ``nt_xent``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: As ``nt_xent``; a value known beforehand is out of range; or the global batch has
            one pair, which leaves no negative.
    """
    check_positive(temperature=temperature)
    if isinstance(beta, int | float) and not beta >= 0:
        raise UserError(f"beta is {beta}; give 0 or more")
    if not 0 <= tau_plus < 1:
        raise UserError(f"tau_plus is {tau_plus}; give a share within [0, 1)")
    views = lay_out(z1, z2, axis_name)
    count = len(views.candidates) - 2
    if count < 1:
        raise UserError("one pair has no negative; give a global batch of 2 or more")
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    sums = sum_rows(
        Terms(log_sum_exp=(_weighted, _weights)),
        views.anchors,
        views.candidates,
        rows=(views.own, views.partner),
        columns=jnp.arange(len(views.candidates), dtype=jnp.int32),
        scalars=(scale, beta),
        tile=choose_tile(tile_size, len(views.anchors), len(views.candidates)),
    )
    weighted, weights = sums.log_sum_exp
    positive = views.positive * scale
    reweighted = weighted - weights + math.log(count)
    # Relative to the larger of the two: at a temperature of 0.01 exponentials overflow.
    top = jax.lax.stop_gradient(jnp.maximum(positive, reweighted))
    debiased = jnp.exp(reweighted - top) - tau_plus * count * jnp.exp(positive - top)
    least = count * jnp.exp(-scale - top)
    negatives = jnp.maximum(debiased / (1 - tau_plus), least)
    return jnp.mean(jnp.log(jnp.exp(positive - top) + negatives) + top - positive)


def _weighted(similarity: jax.Array, row: Any, column: jax.Array, scalars: Any) -> jax.Array:
    scale, beta = scalars
    return jnp.where(is_negative(row, column), (1 + beta) * scale * similarity, -jnp.inf)


def _weights(similarity: jax.Array, row: Any, column: jax.Array, scalars: Any) -> jax.Array:
    scale, beta = scalars
    return jnp.where(is_negative(row, column), beta * scale * similarity, -jnp.inf)
