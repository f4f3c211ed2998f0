"""Supervised contrastive learning: all rows of an anchor's class are its positives."""

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
    unit_length,
)


def sup_con(
    z: jax.Array,
    labels: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """SupCon (arXiv 2004.11362, eq. 2, "out").

    For each of this device's n v anchors, log-sum-exp over all other rows minus the mean over its
    positives, the other rows of its class, of the cosine over the temperature; the mean over the
    anchors. An anchor without a positive counts 0. Without labels and with two views it is NT-Xent.
    The authors' code multiplies by temperature / 0.07, which this does not.

    Args:
        z: Projections of v views of n examples, this device's rows, [n, v, d]; of any length.
        labels: int [n]; of a negative one, only the example's own views are positives.
        temperature: As in ``nt_xent``; 0.1 in the paper, 0.07 in its code.
        axis_name: As in ``nt_xent``.
        tile_size: As in ``nt_xent``.

    Returns:
        Scalar, this device's share.

    Raises:
        UserError: Shapes do not fit, or a temperature known beforehand is not positive.
    """
    check_positive(temperature=temperature)
    if z.ndim != 3 or labels.shape != z.shape[:1]:
        raise UserError(f"z is {z.shape} and labels {labels.shape}; give [n, v, d] and [n]")
    n, views, d = z.shape
    anchors = unit_length(z).reshape(n * views, d)
    example = first_row(n, axis_name) + jnp.arange(n, dtype=jnp.int32)
    labels = jnp.repeat(jnp.where(labels < 0, -1 - example, labels), views)
    own = first_row(n * views, axis_name) + jnp.arange(n * views, dtype=jnp.int32)
    everyone = gather(anchors, axis_name)
    scale = 1 / jnp.asarray(temperature, anchors.dtype)
    sums = sum_rows(
        Terms(log_sum_exp=(_candidate,), total=(_positive, _one_a_positive)),
        anchors,
        everyone,
        rows=(own, labels),
        columns=(jnp.arange(len(everyone), dtype=jnp.int32), gather(labels, axis_name)),
        scalars=scale,
        tile=choose_tile(tile_size, len(anchors), len(everyone)),
    )
    positive, count = sums.total
    loss = sums.log_sum_exp[0] - positive / jnp.maximum(count, 1)
    return jnp.mean(jnp.where(count > 0, loss, 0))


def _is_positive(row: Any, column: Any) -> jax.Array:
    return (row[1] == column[1]) & (row[0] != column[0])


def _candidate(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return jnp.where(row[0] == column[0], -jnp.inf, similarity * scale)


def _positive(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return jnp.where(_is_positive(row, column), similarity * scale, 0)


def _one_a_positive(similarity: jax.Array, row: Any, column: Any, scale: jax.Array) -> jax.Array:
    return _is_positive(row, column).astype(similarity.dtype)
