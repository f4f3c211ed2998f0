"""Contrast of two views of a batch, every row against all others: whole or in symmetric tiles."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.online_softmax import (
    LogSumExp,
    once_differentiable,
    put,
    repeated,
    take,
    tile_pair,
    tiles,
)
from cssl_jax.losses.core.similarity import (
    Contrast,
    TileSize,
    check_pairs,
    check_positive,
    choose_tile,
    first_row,
    gather,
    normalize_rows,
    product,
)

_Rows = tuple[jax.Array, jax.Array, jax.Array]  # log-sum-exp, expected logit, hardest negative
# (row of tiles i, column of tiles j, carry, True if tile (i, j) also serves as (j, i)) -> carry
_Step = Callable[[jax.Array, jax.Array, Any, bool], Any]


def two_view_contrast(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float,
    axis_name: str | None = None,
    tile_size: TileSize = None,
    positive_in_sum: bool = True,
) -> Contrast:
    """Contrasts each of this device's 2n rows with all other rows of the global batch.

    With tiles, no array of the size of the similarity matrix is held. The forward pass keeps an
    online log-sum-exp, and gathers 2N projections and 2N log-sum-exps. The backward pass recomputes
    every tile and needs no collective call. For anchor i and temperature t, the gradient of the
    mean log-sum-exp is sum_j (p_ij + p_ji) z_j / (2n t). Here p_ji is the softmax probability that
    anchor j, on any device, gives to i. It follows from the log-sum-exp of j, because the matrix is
    symmetric.

    The tiled gradient is exact if ``mean_log_sum_exp`` has **the same cotangent on every device**.
    This holds if every device returns its local loss and the gradients are averaged. A loss that
    weights devices differently needs ``tile_size=None``, which also has higher derivatives.

    Args:
        z1: Projections of the first view, float [n, d]; any norm.
        z2: Projections of the second view, float [n, d]; row i shows the example of row i of z1.
        temperature: Positive divisor of the cosine similarity, a number or a traced scalar.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.
        positive_in_sum: True if the anchor's positive is a candidate (NT-Xent), False for DCL.

    Returns:
        Statistics per row in the order (z1, z2), float [2n] each, float32 or wider.

    Raises:
        UserError: The shapes differ, a number is out of range, or a tiled result is differentiated
            twice.
    """
    check_positive(temperature=temperature)
    views = lay_out(z1, z2, axis_name)
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    tile = choose_tile(tile_size, len(views.anchors), len(views.candidates))
    if tile is None:
        mean, rows = _dense(views, scale, positive_in_sum)
    else:
        # By symmetry the gradient of the anchors is complete, so the gather needs none.
        candidates = lax.stop_gradient(views.candidates)
        mean, rows = _tiled(views.anchors, scale, candidates, axis_name, positive_in_sum, tile)
    log_sum_exp, expected, hardest = lax.stop_gradient(rows)
    return Contrast(mean, log_sum_exp, views.positive * scale, hardest, expected)


class Views(NamedTuple):
    """Unit vectors of two views: the anchors of this device and the candidates of all devices.

    Attributes:
        anchors: Unit vectors of this device, float [2n, d]; all first views, then all second views.
        candidates: Anchors of all devices in axis order, float [2N, d].
        own: Column of each anchor among the candidates, int32 [2n].
        partner: Column of each anchor's positive among the candidates, int32 [2n].
        positive: Cosine similarity of each anchor and its positive, float [2n].
    """

    anchors: jax.Array
    candidates: jax.Array
    own: jax.Array
    partner: jax.Array
    positive: jax.Array


def lay_out(z1: jax.Array, z2: jax.Array, axis_name: str | None) -> Views:
    """Scales two views, float [n, d] each, to norm 1 and gathers them over the axis.

    Raises:
        UserError: The shapes differ.
    """
    check_pairs(z1, z2)
    u1, u2 = normalize_rows(z1), normalize_rows(z2)
    anchors = jnp.concatenate([u1, u2])
    first = first_row(len(anchors), axis_name)
    rows = len(anchors)
    return Views(
        anchors=anchors,
        candidates=gather(anchors, axis_name),
        own=first + jnp.arange(rows, dtype=jnp.int32),
        partner=first + _partners(rows),
        positive=jnp.tile(jnp.sum(u1 * u2, axis=-1), 2),
    )


def is_negative(row: tuple[jax.Array, jax.Array], column: jax.Array) -> jax.Array:
    """True if candidate ``column`` is neither the anchor nor its positive; row = (own, partner)."""
    own, partner = row
    return (column != own) & (column != partner)


def _partners(rows: int) -> jax.Array:
    """int32 [rows]: index of the positive of every row of the stacked views (z1, z2)."""
    return jnp.roll(jnp.arange(rows, dtype=jnp.int32), rows // 2)


# ------------------------------------------------------------------------------------ whole matrix


def _dense(views: Views, scale: jax.Array, positive_in_sum: bool) -> tuple[jax.Array, _Rows]:
    logits = product(views.anchors, views.candidates.T) * scale
    columns = jnp.arange(len(views.candidates), dtype=jnp.int32)
    candidates, negatives = _masked(logits, columns, views.own, views.partner)
    values = candidates if positive_in_sum else negatives
    log_sum_exp = jax.nn.logsumexp(values, axis=1)
    constant = lax.stop_gradient(values)
    probability = jnp.exp(constant - lax.stop_gradient(log_sum_exp)[:, None])
    # Excluded candidates have a logit of -inf, and 0 times -inf would be NaN.
    expected = jnp.sum(jnp.where(probability > 0, probability * constant, 0), axis=1)
    hardest = jnp.max(lax.stop_gradient(negatives), axis=1)
    return jnp.mean(log_sum_exp), (log_sum_exp, expected, hardest)


def _masked(
    logits: jax.Array, columns: jax.Array, own: jax.Array, partner: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(logits with -inf at the anchor itself, logits with -inf at its positive as well)."""
    candidates = jnp.where(columns[None] == own[:, None], -jnp.inf, logits)
    return candidates, jnp.where(columns[None] == partner[:, None], -jnp.inf, candidates)


# ------------------------------------------------------------------------------------------- tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _tiled(
    anchors: jax.Array,
    scale: jax.Array,
    candidates: jax.Array,
    axis_name: str | None,
    positive_in_sum: bool,
    tile: int,
) -> tuple[jax.Array, _Rows]:
    outputs, _ = _tiled_forward(anchors, scale, candidates, axis_name, positive_in_sum, tile)
    return outputs


def _tiled_forward(
    anchors: jax.Array,
    scale: jax.Array,
    candidates: jax.Array,
    axis_name: str | None,
    positive_in_sum: bool,
    tile: int,
) -> tuple[tuple[jax.Array, _Rows], Any]:
    first = jnp.asarray(first_row(len(anchors), axis_name), jnp.int32)
    matrix = _Matrix(candidates, anchors, first, scale)
    statistics = functools.partial(_statistics, tile=tile, positive_in_sum=positive_in_sum)
    rows: _Rows = once_differentiable(statistics)(matrix)
    column_sums = gather(rows[0], axis_name)
    return (jnp.mean(rows[0]), rows), (matrix, rows, column_sums)


def _tiled_backward(
    axis_name: str | None, positive_in_sum: bool, tile: int, residuals: Any, cotangents: Any
) -> tuple[jax.Array, jax.Array, None]:
    matrix, (row_sums, expected, _), column_sums = residuals
    weight = cotangents[0] / len(row_sums)
    unscaled = functools.partial(_unscaled_gradient, tile=tile, positive_in_sum=positive_in_sum)
    gradient = once_differentiable(unscaled)(matrix, row_sums, column_sums)
    scale_gradient = weight * jnp.sum(expected) / matrix.scale
    return gradient * (weight * matrix.scale), scale_gradient, None


_tiled.defvjp(_tiled_forward, _tiled_backward)


class _Matrix(NamedTuple):
    """Logits of this device's anchors, computed tile by tile.

    Attributes:
        candidates: Unit vectors of all devices, float [2N, d]; on each device first views come
            first.
        anchors: Unit vectors of this device, float [2n, d].
        first: Index of the first anchor among the candidates, int32 scalar.
        scale: Inverse temperature, float scalar.
    """

    candidates: jax.Array
    anchors: jax.Array
    first: jax.Array
    scale: jax.Array

    @property
    def is_square(self) -> bool:
        """True if all candidates are anchors, so that tiles mirror each other at the diagonal."""
        return len(self.anchors) == len(self.candidates)

    def sides(self, tile: int) -> tuple[int, int]:
        """(height, width) of a tile with at most ``tile`` rows and columns."""
        return tiles(len(self.anchors), tile)[0], tiles(len(self.candidates), tile)[0]

    def tile(
        self, i: jax.Array, j: jax.Array, height: int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of (candidates, negatives), [height, width] each; -inf at excluded entries."""
        rows, columns = len(self.anchors), len(self.candidates)
        logits = product(take(self.anchors, i, height), take(self.candidates, j, width).T)
        # The last tile may repeat rows and columns; each entry counts once.
        fresh = ~(repeated(rows, i, height)[:, None] | repeated(columns, j, width)[None])
        own, partner = take((jnp.arange(rows, dtype=jnp.int32), _partners(rows)), i, height)
        column = take(jnp.arange(columns, dtype=jnp.int32), j, width) - self.first
        return _masked(jnp.where(fresh, logits * self.scale, -jnp.inf), column, own, partner)


def _statistics(matrix: _Matrix, *, tile: int, positive_in_sum: bool) -> _Rows:
    """Statistics of every anchor over all candidates, float [2n] each."""
    rows, dtype = len(matrix.anchors), matrix.anchors.dtype
    height, width = matrix.sides(tile)

    def add(running: Any, values: jax.Array, negatives: jax.Array, axis: int) -> Any:
        sums, hardest = running
        return sums.add(values, axis), jnp.maximum(hardest, jnp.max(negatives, axis))

    def add_tile(i: jax.Array, j: jax.Array, running: Any, mirrored: bool) -> Any:
        candidates, negatives = matrix.tile(i, j, height, width)
        values = candidates if positive_in_sum else negatives
        by_row = add(take(running, i, height), values, negatives, 1)
        running = put(running, by_row, i, height)
        if mirrored:
            # Read after the rows were written: the last tile may overlap the tile before it.
            by_column = add(take(running, j, width), values, negatives, 0)
            running = put(running, by_column, j, width)
        return running

    start = (LogSumExp.start(rows, dtype), jnp.full(rows, -jnp.inf, dtype))
    sums, hardest = _loop_over_tiles(matrix, tile, add_tile, start)
    return (*sums.result(), hardest)


def _unscaled_gradient(
    matrix: _Matrix,
    row_sums: jax.Array,
    column_sums: jax.Array,
    *,
    tile: int,
    positive_in_sum: bool,
) -> jax.Array:
    """sum_j (p_ij + p_ji) z_j for every anchor i of this device, float [2n, d]."""
    height, width = matrix.sides(tile)

    def add_tile(i: jax.Array, j: jax.Array, gradient: jax.Array, mirrored: bool) -> jax.Array:
        candidates, negatives = matrix.tile(i, j, height, width)
        values = candidates if positive_in_sum else negatives
        row_sum, column_sum = take(row_sums, i, height), take(column_sums, j, width)
        weights = jnp.exp(values - row_sum[:, None]) + jnp.exp(values - column_sum[None])
        by_row = product(weights, take(matrix.candidates, j, width))
        gradient = put(gradient, take(gradient, i, height) + by_row, i, height)
        if mirrored:
            by_column = product(weights.T, take(matrix.anchors, i, height))
            gradient = put(gradient, take(gradient, j, width) + by_column, j, width)
        return gradient

    start = jnp.zeros_like(matrix.anchors)
    gradient: jax.Array = _loop_over_tiles(matrix, tile, add_tile, start)
    return gradient


def _loop_over_tiles(matrix: _Matrix, tile: int, step: _Step, start: Any) -> Any:
    """Carries ``step`` over the required tiles; see ``_Step``.

    A matrix that is not square needs all tiles. In a square matrix each tile below the diagonal
    mirrors one above. The diagonal tiles come first, then one tile per unordered pair, which serves
    both sides.

    The two loops have lengths that are known at compile time, and no conditional. Otherwise a GPU
    copies the predicate of every iteration to the host and waits for the answer.
    """
    row_tiles, column_tiles = (tiles(len(x), tile)[1] for x in (matrix.anchors, matrix.candidates))
    if not matrix.is_square:

        def any_tile(k: jax.Array, carry: Any) -> Any:
            return step(lax.div(k, column_tiles), lax.rem(k, column_tiles), carry, False)

        return lax.fori_loop(0, row_tiles * column_tiles, any_tile, start)

    def pair(k: jax.Array, carry: Any) -> Any:
        return step(*tile_pair(k, row_tiles), carry, True)

    carry = lax.fori_loop(0, row_tiles, lambda k, carry: step(k, k, carry, False), start)
    return lax.fori_loop(0, row_tiles * (row_tiles - 1) // 2, pair, carry)
