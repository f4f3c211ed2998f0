"""Losses that score every pair independently by a logistic function."""

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
    normalize_rows,
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

    The loss of row i is the sum over j of -log sigmoid(y_ij (scale c_ij + bias)), where c is the
    cosine, y is 1 for the pair and -1 for all other rows. The result is the mean over the n rows of
    this device.

    Args:
        first: Rows of one modality (or view) on this device, float [n, d]; any norm.
        second: Rows of the other modality, float [n, d]; row i belongs to row i of ``first``.
        scale: Inverse temperature. The paper learns its logarithm, initialised at ln 10.
        bias: Offset of the logits. The paper learns it, initialised at -10, so that the many
            negatives have a small loss at the start.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, or the scale is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.eye(2)  # ln 2 for the pair, ln(1 + e^-10) for the other row
        >>> round(float(siglip(x, x)), 4)
        0.6932
    """
    check_pairs(first, second, "first and second")
    check_positive(scale=scale)
    anchors, candidates = normalize_rows(first), gather(normalize_rows(second), axis_name)
    sums = sum_rows(
        Terms(total=(_pair_term,)),
        anchors,
        candidates,
        rows=first_row(len(anchors), axis_name) + jnp.arange(len(anchors), dtype=jnp.int32),
        columns=jnp.arange(len(candidates), dtype=jnp.int32),
        scalars=(scale, bias),
        tile=choose_tile(tile_size, len(anchors), len(candidates)),
    )
    return jnp.mean(sums.total[0])


def _pair_term(similarity: jax.Array, row: jax.Array, column: jax.Array, scalars: Any) -> jax.Array:
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
    """NT-Logistic loss (arXiv 2002.05709, table 2), averaged over negatives.

    The loss of an anchor is -log sigmoid(s_positive) minus the mean over the 2N - 2 negatives of
    log sigmoid(-s), where s is the cosine divided by the temperature. The result is the mean over
    the 2n anchors of this device.

    Arguments, return value and errors are documented in ``nt_xent``.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(2)  # ln(1 + 1/e) for the positive, ln 2 for the negatives
        >>> round(float(nt_logistic(z, z, temperature=1.0)), 4)
        1.0064
    """
    check_positive(temperature=temperature)
    views = lay_out(z1, z2, axis_name)
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    sums = sum_rows(
        Terms(total=(_negative_term,)),
        views.anchors,
        views.candidates,
        rows=(views.own, views.partner),
        columns=jnp.arange(len(views.candidates), dtype=jnp.int32),
        scalars=scale,
        tile=choose_tile(tile_size, len(views.anchors), len(views.candidates)),
    )
    negatives = sums.total[0] / max(len(views.candidates) - 2, 1)
    return jnp.mean(jax.nn.softplus(-views.positive * scale) + negatives)


def _negative_term(
    similarity: jax.Array, row: Any, column: jax.Array, scale: jax.Array
) -> jax.Array:
    return jnp.where(is_negative(row, column), jax.nn.softplus(similarity * scale), 0)
