"""Losses that judge every pair on its own, by a logistic function."""

from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.losses.core.row_sums import Terms, sum_rows
from cssl_jax.losses.core.similarity import (
    TileSize,
    check_pairs,
    check_positive,
    choose_tile,
    first_row,
    gather,
    unit_length,
)
from cssl_jax.losses.core.two_views import is_negative, lay_out


def siglip(
    first: jax.Array,
    second: jax.Array,
    *,
    scale: jax.Array | float = 10.0,
    bias: jax.Array | float = -10.0,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """Pairwise sigmoid loss (SigLIP, arXiv 2303.15343, eq. 1 and Alg. 1).

    With c the cosine, sum over j of -log sigmoid(y_ij (scale c_ij + bias)), y = 1 for the pair and
    -1 for all others, and the mean of that over i.

    Args:
        first: One modality's (or view's) rows of this device, [n, d]; of any length.
        second: The other's, [n, d].
        scale: One over the temperature; the paper learns its logarithm, from ln 10 on.
        bias: Learnt too, from -10 on, so that the many negatives do not weigh at the start.
        axis_name: Mapped axis that the batch is split over, or None.
        tile_size: See ``choose_tile``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: Shapes differ, or a scale known beforehand is not positive.
    """
    check_pairs(first, second, "first and second")
    check_positive(scale=scale)
    anchors, everyone = unit_length(first), gather(unit_length(second), axis_name)
    sums = sum_rows(
        Terms(total=(_pair,)),
        anchors,
        everyone,
        rows=first_row(len(anchors), axis_name) + jnp.arange(len(anchors), dtype=jnp.int32),
        columns=jnp.arange(len(everyone), dtype=jnp.int32),
        scalars=(scale, bias),
        tile=choose_tile(tile_size, len(anchors), len(everyone)),
    )
    return jnp.mean(sums.total[0])


def _pair(similarity: jax.Array, row: jax.Array, column: jax.Array, scalars: Any) -> jax.Array:
    scale, bias = scalars
    logit = similarity * scale + bias
    return jax.nn.softplus(jnp.where(row == column, -logit, logit))


def nt_logistic(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """NT-Logistic (arXiv 2002.05709, table 2), negatives averaged.

    With s the cosine over the temperature, -log sigmoid(s_positive) minus the mean over the 2N - 2
    negatives of log sigmoid(-s), and the mean of that over this device's 2n anchors.

    Args and errors are those of ``nt_xent``.
    """
    check_positive(temperature=temperature)
    views = lay_out(z1, z2, axis_name)
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    sums = sum_rows(
        Terms(total=(_logistic_negative,)),
        views.anchors,
        views.candidates,
        rows=(views.own, views.partner),
        columns=jnp.arange(len(views.candidates), dtype=jnp.int32),
        scalars=scale,
        tile=choose_tile(tile_size, len(views.anchors), len(views.candidates)),
    )
    negatives = sums.total[0] / max(len(views.candidates) - 2, 1)
    return jnp.mean(jax.nn.softplus(-views.positive * scale) + negatives)


def _logistic_negative(
    similarity: jax.Array, row: Any, column: jax.Array, scale: jax.Array
) -> jax.Array:
    return jnp.where(is_negative(row, column), jax.nn.softplus(similarity * scale), 0)
