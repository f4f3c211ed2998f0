"""Margin losses: contrastive (Hadsell et al. 2006) and triplet."""

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
    """Contrastive loss with a squared hinge (Hadsell et al. 2006, eq. 4), averaged over negatives.

    Let D be the distance between unit vectors. The loss of an anchor is D_positive^2 / 2 plus the
    mean over the 2N - 2 negatives of max(0, margin - D)^2 / 2. The result is the mean over the 2n
    anchors of this device. A negative that is identical to its anchor has a zero gradient, because
    the direction between them is undefined.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d]; any norm.
        z2: Projections of the second view, float [n, d]; row i is the positive of row i of z1.
        margin: Distance beyond which a negative adds nothing; distances lie within [0, 2].
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, or the margin is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.ones((2, 8))  # all rows alike: margin^2 / 2
        >>> round(float(contrastive(z, z, margin=1.0)), 4)
        0.5
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
    # Rounding puts identical vectors at a squared distance of about 1e-7, where the derivative of
    # the square root is huge. The inner where keeps the unused branch finite as well.
    is_distinct = squared > 16 * jnp.finfo(similarity.dtype).eps
    distance = jnp.where(is_distinct, jnp.sqrt(jnp.where(is_distinct, squared, 1)), 0)
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

    The loss of an anchor is the mean of max(0, c_negative - c_positive + margin) over its mined
    negatives, where c is a cosine. The result is the mean over the 2n anchors of this device.

    - "all": all 2N - 2 negatives.
    - "semi-hard": negatives that are farther than the positive but within the margin. An anchor
      without one has a loss of 0.
    - "hard": the nearest negative.

    The function holds the whole similarity matrix, so memory grows with N^2.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d]; any norm.
        z2: Projections of the second view, float [n, d]; row i is the positive of row i of z1.
        margin: Required difference between the positive's and a negative's cosine.
        mining: Selection of negatives: "all", "semi-hard" or "hard".
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ, the mining is unknown, or the margin is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(2)  # cosine 1 of the positive, 0 of the negatives: 0 - 1 + margin
        >>> float(triplet(z, z, margin=1.5, mining="hard"))
        0.5
    """
    check_positive(margin=margin)
    if mining not in MININGS:
        raise UserError(f"mining {mining!r} is unknown; use one of {', '.join(MININGS)}")
    views = lay_out(z1, z2, axis_name)
    similarity = product(views.anchors, views.candidates.T)
    columns = jnp.arange(len(views.candidates), dtype=jnp.int32)[None]
    is_mined = is_negative((views.own[:, None], views.partner[:, None]), columns)
    positive = views.positive[:, None]
    if mining == "hard":
        is_mined &= similarity == jnp.max(
            jnp.where(is_mined, similarity, -jnp.inf), axis=1, keepdims=True
        )
    if mining == "semi-hard":
        is_mined &= (similarity < positive) & (similarity > positive - margin)
    hinge = jnp.where(is_mined, jnp.maximum(0, similarity - positive + margin), 0)
    return jnp.mean(jnp.sum(hinge, axis=1) / jnp.maximum(jnp.sum(is_mined, axis=1), 1))
