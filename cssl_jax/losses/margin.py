"""Losses with a margin: contrastive (Hadsell et al.) and triplet."""

from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.losses.core.row_sums import Terms, sum_rows
from cssl_jax.losses.core.similarity import TileSize, check_positive, choose_tile, product
from cssl_jax.losses.core.two_views import is_negative, lay_out

MININGS = ("all", "semi-hard", "hard")


def contrastive(
    z1: jax.Array,
    z2: jax.Array,
    *,
    margin: float | jax.Array = 1.0,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """Contrastive loss with a squared hinge (Hadsell et al. 2006, eq. 4), negatives averaged.

    With D the distance of unit vectors, D_positive^2 / 2 plus the mean over the 2N - 2 negatives of
    max(0, margin - D)^2 / 2; the mean over this device's 2n anchors. A negative equal to its anchor
    has no direction to leave in, and no gradient.

    Args:
        z1: Projections of the first view, this device's rows, [n, d]; of any length.
        z2: Of the second, [n, d].
        margin: Distance from which on negatives do not matter; distances go from 0 to 2.
        axis_name: As in ``nt_xent``.
        tile_size: As in ``nt_xent``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: Shapes differ, or a margin known beforehand is not positive.
    """
    check_positive(margin=margin)
    views = lay_out(z1, z2, axis_name)
    sums = sum_rows(
        Terms(total=(_squared_hinge,)),
        views.anchors,
        views.candidates,
        rows=(views.own, views.partner),
        columns=jnp.arange(len(views.candidates), dtype=jnp.int32),
        scalars=margin,
        tile=choose_tile(tile_size, len(views.anchors), len(views.candidates)),
    )
    negatives = sums.total[0] / max(len(views.candidates) - 2, 1)
    return jnp.mean(1 - views.positive + negatives)


def _squared_hinge(
    similarity: jax.Array, row: Any, column: jax.Array, margin: jax.Array
) -> jax.Array:
    squared = 2 - 2 * similarity
    # Rounding leaves equal vectors at some 1e-7, where the root's slope would be a large number.
    apart = squared > 16 * jnp.finfo(similarity.dtype).eps
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    hinge = jnp.maximum(0, margin - distance)
    return jnp.where(is_negative(row, column), jnp.square(hinge) / 2, 0)


def triplet(
    z1: jax.Array,
    z2: jax.Array,
    *,
    margin: float = 0.5,
    mining: str = "semi-hard",
    axis_name: str | None = None,
) -> jax.Array:
    """Triplet loss on cosines (arXiv 2002.05709, table 2; mining of arXiv 1503.03832, sec. 3.2).

    Mean of max(0, c_negative - c_positive + margin) over, for each of this device's 2n anchors,

    - "all": the 2N - 2 negatives;
    - "semi-hard": those farther than the positive but within the margin; none counts 0;
    - "hard": the nearest negative.

    Holds the whole matrix of similarities: the batch is bounded by N^2.

    Args:
        z1: Projections of the first view, this device's rows, [n, d]; of any length.
        z2: Of the second, [n, d].
        margin: In cosine.
        mining: Which negatives count.
        axis_name: As in ``nt_xent``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: Shapes differ, an unknown mining, or a margin that is not positive.
    """
    check_positive(margin=margin)
    if mining not in MININGS:
        raise UserError(f"mining {mining!r} is unknown; use one of {', '.join(MININGS)}")
    views = lay_out(z1, z2, axis_name)
    similarity = product(views.anchors, views.candidates.T)
    places = jnp.arange(len(views.candidates), dtype=jnp.int32)[None]
    counts = is_negative((views.own[:, None], views.partner[:, None]), places)
    positive = views.positive[:, None]
    if mining == "hard":
        counts &= similarity == jnp.max(
            jnp.where(counts, similarity, -jnp.inf), axis=1, keepdims=True
        )
    if mining == "semi-hard":
        counts &= (similarity < positive) & (similarity > positive - margin)
    hinge = jnp.where(counts, jnp.maximum(0, similarity - positive + margin), 0)
    return jnp.mean(jnp.sum(hinge, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1))
