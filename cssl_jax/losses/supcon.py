"""Supervised contrastive learning: the positives of an anchor are all other rows of its class."""

from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.losses.core.row_sums import Terms, sum_rows
from cssl_jax.losses.core.similarity import (
    TileSize,
    check_positive,
    choose_tile,
    first_row,
    gather,
    normalize_rows,
)


def sup_con(
    z: jax.Array,
    labels: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """SupCon loss (arXiv 2004.11362, eq. 2, "out").

    Let s be the cosine divided by the temperature. The loss of an anchor is log-sum-exp(s) over all
    other rows, minus the mean of s over its positives, which are the other rows of its class. The
    result is the mean over the n v anchors of this device. An anchor without a positive has a loss
    of 0. With two views and without labels the loss is NT-Xent. The authors' code multiplies the
    loss by temperature / 0.07; this function does not.

    Args:
        z: Projections of v views of n examples, rows of this device, float [n, v, d]; any norm.
        labels: Class per example, int [n]. Negative: unlabelled, only the other views of the same
            example are positives.
        temperature: Positive divisor of the cosine; 0.1 in the paper, 0.07 in its code.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes do not match, or the temperature is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]  # one view per example
        >>> labels = jnp.array([0, 0, 1])
        >>> round(float(sup_con(z, labels, temperature=1.0)), 4)  # 2/3 (ln(e + 1) - 1)
        0.2088
    """
    check_positive(temperature=temperature)
    if z.ndim != 3 or labels.shape != z.shape[:1]:
        raise UserError(f"z is {z.shape} and labels {labels.shape}; give [n, v, d] and [n]")
    n, views, d = z.shape
    anchors = normalize_rows(z).reshape(n * views, d)
    example = first_row(n, axis_name) + jnp.arange(n, dtype=jnp.int32)
    # Each unlabelled example gets a unique negative class, so that only its own views match.
    labels = jnp.repeat(jnp.where(labels < 0, -1 - example, labels), views)
    own = first_row(n * views, axis_name) + jnp.arange(n * views, dtype=jnp.int32)
    candidates = gather(anchors, axis_name)
    scale = 1 / jnp.asarray(temperature, anchors.dtype)
    sums = sum_rows(
        Terms(log_sum_exp=(_candidate_logit,), total=(_positive_logit, _positive_count)),
        anchors,
        candidates,
        rows=(own, labels),
        columns=(jnp.arange(len(candidates), dtype=jnp.int32), gather(labels, axis_name)),
        scalars=scale,
        tile=choose_tile(tile_size, len(anchors), len(candidates)),
    )
    positive, count = sums.total
    loss = sums.log_sum_exp[0] - positive / jnp.maximum(count, 1)
    return jnp.mean(jnp.where(count > 0, loss, 0))


def _is_positive(row: Any, column: Any) -> jax.Array:
    is_positive: jax.Array = (row[1] == column[1]) & (row[0] != column[0])
    return is_positive


def _candidate_logit(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return jnp.where(row[0] == column[0], -jnp.inf, similarity * scale)


def _positive_logit(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return jnp.where(_is_positive(row, column), similarity * scale, 0)


def _positive_count(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return _is_positive(row, column).astype(similarity.dtype)
