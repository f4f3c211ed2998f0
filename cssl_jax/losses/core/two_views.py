"""Two views of a batch, each row against all others: whole, or in tiles by symmetry."""

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
    product,
    unit_length,
)

_Rows = tuple[jax.Array, jax.Array, jax.Array]  # log-sum-exp, expected logit, hardest negative
# (row of tiles i, column of tiles j, carry, whether tile (i, j) also counts as (j, i)) -> carry
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

    In tiles nothing of the size of the similarity matrix is ever held: the forward pass keeps an
    online log-sum-exp, gathers 2N projections and 2N log-sum-exps; the backward pass makes every
    tile again and needs no collective. For anchor i and temperature t, the gradient of the mean
    log-sum-exp is sum_j (p_ij + p_ji) z_j / (2n t), where p_ji, the share that anchor j of whatever
    device gives to i, is known from j's log-sum-exp, the matrix being symmetric.

    That is exact where ``mean_log_sum_exp`` has **the same cotangent on every device**, as it has
    where every device returns its share and the gradients are averaged. A loss that weights devices
    differently needs ``tile_size=None``, which also has higher derivatives.

    Args:
        z1: Projections of the first view, [n, d]; of any length.
        z2: Of the second view, [n, d]; row i shows the same example as row i of z1.
        temperature: Positive, a number or a traced scalar; divides the cosine similarity.
        axis_name: Mapped axis that the batch is split over, or None.
        tile_size: See ``choose_tile``.
        positive_in_sum: The anchor's positive is a candidate (NT-Xent) or is not (DCL).

    Returns:
        Rows in the order (z1, z2), [2n] each; at least float32.

    Raises:
        UserError: Shapes differ, or a value known beforehand cannot be used.
    """
    check_positive(temperature=temperature)
    views = lay_out(z1, z2, axis_name)
    scale = 1 / jnp.asarray(temperature, views.anchors.dtype)
    tile = choose_tile(tile_size, len(views.anchors), len(views.candidates))
    if tile is None:
        mean, rows = _dense(views, scale, positive_in_sum)
    else:
        # By symmetry the anchors' gradient is all of it; the gather needs none.
        everyone = lax.stop_gradient(views.candidates)
        mean, rows = _tiled(views.anchors, scale, everyone, axis_name, positive_in_sum, tile)
    log_sum_exp, expected, hardest = lax.stop_gradient(rows)
    return Contrast(mean, log_sum_exp, views.positive * scale, hardest, expected)


class Views(NamedTuple):
    """Two views of this device's examples among those of the global batch.

    Attributes:
        anchors: [2n, d] of unit length, first views first.
        candidates: [2N, d], the anchors of every device in the order of the axis.
        own: int32 [2n], each anchor's place among the candidates.
        partner: int32 [2n], of its positive.
        positive: [2n], cosine similarity of the positive.
    """

    anchors: jax.Array
    candidates: jax.Array
    own: jax.Array
    partner: jax.Array
    positive: jax.Array


def lay_out(z1: jax.Array, z2: jax.Array, axis_name: str | None) -> Views:
    """Scales two views [n, d] to unit length and gathers them.

    Raises:
        UserError: Shapes differ.
    """
    check_pairs(z1, z2)
    u1, u2 = unit_length(z1), unit_length(z2)
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
    """Whether candidate ``column`` is neither the anchor ``row`` (own, partner) nor its pair."""
    own, partner = row
    return (column != own) & (column != partner)


def _partners(rows: int) -> jax.Array:
    """int32 [rows]: of rows (z1, z2), the place of each one's positive."""
    return jnp.roll(jnp.arange(rows, dtype=jnp.int32), rows // 2)


# -------------------------------------------------------------------------------------------- whole


def _dense(views: Views, scale: jax.Array, positive_in_sum: bool) -> tuple[jax.Array, _Rows]:
    logits = product(views.anchors, views.candidates.T) * scale
    places = jnp.arange(len(views.candidates), dtype=jnp.int32)
    candidates, negatives = _masked(logits, places, views.own, views.partner)
    values = candidates if positive_in_sum else negatives
    log_sum_exp = jax.nn.logsumexp(values, axis=1)
    held = lax.stop_gradient(values)
    share = jnp.exp(held - lax.stop_gradient(log_sum_exp)[:, None])
    expected = jnp.sum(jnp.where(share > 0, share * held, 0), axis=1)
    hardest = jnp.max(lax.stop_gradient(negatives), axis=1)
    return jnp.mean(log_sum_exp), (log_sum_exp, expected, hardest)


def _masked(
    logits: jax.Array, columns: jax.Array, own: jax.Array, partner: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Logits with -inf at the anchor itself, and at its positive as well."""
    candidates = jnp.where(columns[None] == own[:, None], -jnp.inf, logits)
    return candidates, jnp.where(columns[None] == partner[:, None], -jnp.inf, candidates)


# ---------------------------------------------------------------------------------------- in tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _tiled(
    anchors: jax.Array,
    scale: jax.Array,
    candidates: jax.Array,
    axis_name: str | None,
    positive_in_sum: bool,
    tile: int,
) -> tuple[jax.Array, _Rows]:
    return _tiled_forward(anchors, scale, candidates, axis_name, positive_in_sum, tile)[0]


def _tiled_forward(
    anchors: jax.Array,
    scale: jax.Array,
    candidates: jax.Array,
    axis_name: str | None,
    positive_in_sum: bool,
    tile: int,
) -> tuple[Any, Any]:
    first = jnp.asarray(first_row(len(anchors), axis_name), jnp.int32)
    matrix = _Matrix(candidates, anchors, first, scale)
    statistics = functools.partial(_statistics, tile=tile, positive_in_sum=positive_in_sum)
    rows: _Rows = once_differentiable(statistics)(matrix)
    column_sums = gather(rows[0], axis_name)
    return (jnp.mean(rows[0]), rows), (matrix, rows, column_sums)


def _tiled_backward(
    axis_name: str | None, positive_in_sum: bool, tile: int, kept: Any, cotangents: Any
) -> tuple[jax.Array, jax.Array, None]:
    matrix, (row_sums, expected, _), column_sums = kept
    weight = cotangents[0] / len(row_sums)
    pull = functools.partial(_pull, tile=tile, positive_in_sum=positive_in_sum)
    gradient = once_differentiable(pull)(matrix, row_sums, column_sums)
    scale_gradient = weight * jnp.sum(expected) / matrix.scale
    return gradient * (weight * matrix.scale), scale_gradient, None


_tiled.defvjp(_tiled_forward, _tiled_backward)


class _Matrix(NamedTuple):
    """The logits of this device's anchors, never held as a whole.

    Attributes:
        candidates: [2N, d] of unit length, device by device and first views first.
        anchors: [2n, d], the candidates of this device.
        first: int32 scalar, place of the first anchor among the candidates.
        scale: One over the temperature.
    """

    candidates: jax.Array
    anchors: jax.Array
    first: jax.Array
    scale: jax.Array

    @property
    def is_square(self) -> bool:
        """The anchors are all candidates, so tiles below the diagonal mirror those above it."""
        return len(self.anchors) == len(self.candidates)

    def sides(self, tile: int) -> tuple[int, int]:
        """(height, width) of a tile of so many rows and columns at most."""
        return tiles(len(self.anchors), tile)[0], tiles(len(self.candidates), tile)[0]

    def tile(
        self, i: jax.Array, j: jax.Array, height: int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        """(candidates' logits, negatives' logits), [height, width]; -inf where there is none."""
        rows, columns = len(self.anchors), len(self.candidates)
        logits = product(take(self.anchors, i, height), take(self.candidates, j, width).T)
        once = ~(repeated(rows, i, height)[:, None] | repeated(columns, j, width)[None])
        own, partner = take((jnp.arange(rows, dtype=jnp.int32), _partners(rows)), i, height)
        place = take(jnp.arange(columns, dtype=jnp.int32), j, width) - self.first
        return _masked(jnp.where(once, logits * self.scale, -jnp.inf), place, own, partner)


def _statistics(matrix: _Matrix, *, tile: int, positive_in_sum: bool) -> _Rows:
    """Statistics of every anchor over all candidates, [2n] each."""
    rows, dtype = len(matrix.anchors), matrix.anchors.dtype
    height, width = matrix.sides(tile)

    def add(running: Any, values: jax.Array, negatives: jax.Array, axis: int) -> Any:
        sums, hardest = running
        return sums.add(values, axis), jnp.maximum(hardest, jnp.max(negatives, axis))

    def one(i: jax.Array, j: jax.Array, running: Any, mirrored: bool) -> Any:
        candidates, negatives = matrix.tile(i, j, height, width)
        values = candidates if positive_in_sum else negatives
        mine = add(take(running, i, height), values, negatives, 1)
        running = put(running, mine, i, height)
        if mirrored:
            # Taken after the rows were put: the last tile may overlap the one before it.
            theirs = add(take(running, j, width), values, negatives, 0)
            running = put(running, theirs, j, width)
        return running

    start = (LogSumExp.start(rows, dtype), jnp.full(rows, -jnp.inf, dtype))
    sums, hardest = _walk(matrix, tile, one, start)
    return (*sums.result(), hardest)


def _pull(
    matrix: _Matrix,
    row_sums: jax.Array,
    column_sums: jax.Array,
    *,
    tile: int,
    positive_in_sum: bool,
) -> jax.Array:
    """sum_j (p_ij + p_ji) z_j for every anchor i of this device, [2n, d]."""
    height, width = matrix.sides(tile)

    def one(i: jax.Array, j: jax.Array, gradient: jax.Array, mirrored: bool) -> jax.Array:
        candidates, negatives = matrix.tile(i, j, height, width)
        values = candidates if positive_in_sum else negatives
        row_sum, column_sum = take(row_sums, i, height), take(column_sums, j, width)
        shares = jnp.exp(values - row_sum[:, None]) + jnp.exp(values - column_sum[None])
        mine = take(gradient, i, height) + product(shares, take(matrix.candidates, j, width))
        gradient = put(gradient, mine, i, height)
        if mirrored:
            theirs = product(shares.T, take(matrix.anchors, i, height))
            gradient = put(gradient, take(gradient, j, width) + theirs, j, width)
        return gradient

    return _walk(matrix, tile, one, jnp.zeros_like(matrix.anchors))


def _walk(matrix: _Matrix, tile: int, one: _Step, start: Any) -> Any:
    """Carries ``one`` over the tiles that are needed; see ``_Step``.

    All tiles if the matrix is not square. If it is, each tile below the diagonal mirrors one above:
    the diagonal tiles come first, then one tile of each unordered pair, which serves both sides.

    Two loops of a length that is known when compiling, without a conditional: otherwise a GPU
    copies the predicate of every iteration to the host and waits for the answer.
    """
    row_tiles, column_tiles = (tiles(len(x), tile)[1] for x in (matrix.anchors, matrix.candidates))
    if not matrix.is_square:

        def any_tile(k: jax.Array, carry: Any) -> Any:
            return one(lax.div(k, column_tiles), lax.rem(k, column_tiles), carry, False)

        return lax.fori_loop(0, row_tiles * column_tiles, any_tile, start)

    def pair(k: jax.Array, carry: Any) -> Any:
        return one(*tile_pair(k, row_tiles), carry, True)

    carry = lax.fori_loop(0, row_tiles, lambda k, carry: one(k, k, carry, False), start)
    return lax.fori_loop(0, row_tiles * (row_tiles - 1) // 2, pair, carry)
