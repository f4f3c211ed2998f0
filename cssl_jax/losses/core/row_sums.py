"""Sums over the rows of a similarity matrix, whole or in tiles: the core of most losses.

A loss defines its summands by elementwise functions of a similarity, the data of its row and the
data of its column. The traversal of the matrix and the gradient are common to all losses.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.online_softmax import (
    LogSumExp,
    once_differentiable,
    put,
    repeated,
    take,
    tiles,
)
from cssl_jax.losses.core.similarity import product

PyTree = Any
# (similarity [r, c], row tree of [r, 1], column tree of [1, c], scalars) -> [r, c]
Value = Callable[[jax.Array, PyTree, PyTree, PyTree], jax.Array]


class Terms(NamedTuple):
    """Summands of a loss, grouped by the kind of reduction over a row.

    Use functions defined at module level: a function that is created per call would make jit
    compile again.

    Attributes:
        log_sum_exp: Functions reduced to (log-sum-exp, mean of the values under the softmax). The
            mean has no gradient. A value of -inf excludes the candidate.
        total: Functions reduced to their sum. A value of 0 excludes the candidate.
        largest: Functions reduced to their maximum, without gradient. A value of -inf excludes the
            candidate.
    """

    log_sum_exp: tuple[Value, ...] = ()
    total: tuple[Value, ...] = ()
    largest: tuple[Value, ...] = ()


class Sums(NamedTuple):
    """Reductions of every row, one float array [rows] per function of ``Terms``.

    Attributes:
        log_sum_exp: Log-sum-exp per function in ``Terms.log_sum_exp``.
        expected: Mean under the softmax per function in ``Terms.log_sum_exp``.
        total: Sum per function in ``Terms.total``.
        largest: Maximum per function in ``Terms.largest``.
    """

    log_sum_exp: tuple[jax.Array, ...]
    expected: tuple[jax.Array, ...]
    total: tuple[jax.Array, ...]
    largest: tuple[jax.Array, ...]


def sum_rows(
    terms: Terms,
    anchors: jax.Array,
    candidates: jax.Array,
    *,
    rows: PyTree = (),
    columns: PyTree = (),
    scalars: PyTree = (),
    tile: int | None = None,
) -> Sums:
    """Reduces functions of ``anchors @ candidates.T`` over its rows.

    With tiles, no array of the size of the matrix is held, and the backward pass recomputes each
    tile. The backward pass returns the gradients of anchors and candidates. Candidates that were
    gathered over an axis get their gradient from the derivative of the gather, so the cotangents
    may differ between devices.

    Args:
        terms: Functions to reduce.
        anchors: Rows of the matrix, float [m, d].
        candidates: Columns of the matrix, float [M, d].
        rows: Pytree of arrays [m], data per anchor for the functions; receives no gradient.
        columns: Pytree of arrays [M], data per candidate for the functions; receives no gradient.
        scalars: Pytree of float scalars for the functions; receives its gradient.
        tile: Side of a tile. None: compute the whole matrix, which has higher derivatives.

    Returns:
        Reductions per anchor, float [m], float32 or wider.

    Raises:
        UserError: A tiled sum is differentiated twice.
    """
    chex.assert_rank(anchors, 2)
    chex.assert_shape(candidates, (None, anchors.shape[1]))
    chex.assert_tree_shape_prefix(rows, (len(anchors),))
    chex.assert_tree_shape_prefix(columns, (len(candidates),))
    dtype = jnp.promote_types(anchors.dtype, jnp.float32)
    scalars = jax.tree.map(lambda x: jnp.asarray(x, dtype), scalars)
    rows, columns = lax.stop_gradient((rows, columns))
    if tile is not None:
        sums = _tiled(terms, tile, anchors, candidates, rows, columns, scalars)
    else:
        arguments = (product(anchors, candidates.T), _as_row(rows), _as_column(columns), scalars)
        sums = _dense(terms, arguments)
    return sums._replace(
        expected=lax.stop_gradient(sums.expected), largest=lax.stop_gradient(sums.largest)
    )


def _as_row(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x)[:, None], tree)


def _as_column(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def _dense(terms: Terms, arguments: tuple[Any, ...]) -> Sums:
    sums, expected = [], []
    for value in terms.log_sum_exp:
        values = value(*arguments)
        sums.append(jax.nn.logsumexp(values, axis=1))
        constant = lax.stop_gradient(values)
        probability = _softmax(constant, lax.stop_gradient(sums[-1]))
        # Excluded candidates have a value of -inf, and 0 times -inf would be NaN.
        weighted = jnp.where(probability > 0, probability * constant, 0)
        expected.append(jnp.sum(weighted, axis=1))
    return Sums(
        tuple(sums),
        tuple(expected),
        tuple(jnp.sum(value(*arguments), axis=1) for value in terms.total),
        tuple(jnp.max(value(*lax.stop_gradient(arguments)), axis=1) for value in terms.largest),
    )


def _softmax(values: jax.Array, log_sum_exp: jax.Array) -> jax.Array:
    """Softmax over each row; 0 where the row has no candidate."""
    finite = jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0)
    return jnp.exp(values - finite[:, None])


# ------------------------------------------------------------------------------------------- tiles


class _Matrix(NamedTuple):
    anchors: jax.Array
    candidates: jax.Array
    rows: PyTree
    columns: PyTree

    def tile(self, i: jax.Array, j: jax.Array, height: int, width: int) -> tuple[Any, ...]:
        """(similarities [height, width], row data, column data) of tile (i, j)."""
        anchors, row = take((self.anchors, self.rows), i, height)
        candidates, column = take((self.candidates, self.columns), j, width)
        return product(anchors, candidates.T), _as_row(row), _as_column(column)

    def fresh(self, i: jax.Array, j: jax.Array, height: int, width: int) -> jax.Array:
        """Bool [height, width]: True at entries of tile (i, j) that no earlier tile contains."""
        rows = repeated(len(self.anchors), i, height)
        return ~(rows[:, None] | repeated(len(self.candidates), j, width)[None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tiled(
    terms: Terms,
    tile: int,
    anchors: jax.Array,
    candidates: jax.Array,
    rows: PyTree,
    columns: PyTree,
    scalars: PyTree,
) -> Sums:
    return _forward(terms, tile, anchors, candidates, rows, columns, scalars)[0]


def _forward(terms: Terms, tile: int, *arrays: Any) -> tuple[Sums, Any]:
    *matrix, scalars = arrays
    sums = once_differentiable(functools.partial(_statistics, terms, tile))(
        _Matrix(*matrix), scalars
    )
    return sums, (_Matrix(*matrix), scalars, sums.log_sum_exp)


def _backward(terms: Terms, tile: int, residuals: Any, cotangents: Sums) -> tuple[Any, ...]:
    gradients = once_differentiable(functools.partial(_gradients, terms, tile))
    anchors, candidates, scalars = gradients(*residuals, cotangents.log_sum_exp, cotangents.total)
    return anchors, candidates, None, None, scalars


_tiled.defvjp(_forward, _backward)


def _statistics(terms: Terms, tile: int, matrix: _Matrix, scalars: PyTree) -> Sums:
    rows, dtype = len(matrix.anchors), matrix.anchors.dtype
    height, row_tiles = tiles(rows, tile)
    width, column_tiles = tiles(len(matrix.candidates), tile)

    def row_of_tiles(i: jax.Array, statistics: Any) -> Any:
        def add_tile(j: jax.Array, running: Any) -> Any:
            arguments = (*matrix.tile(i, j, height, width), scalars)
            fresh = matrix.fresh(i, j, height, width)
            log_sum_exps, totals, largest = running
            return (
                tuple(
                    old.add(jnp.where(fresh, value(*arguments), -jnp.inf), 1)
                    for old, value in zip(log_sum_exps, terms.log_sum_exp, strict=True)
                ),
                tuple(
                    old + jnp.sum(jnp.where(fresh, value(*arguments), 0), 1)
                    for old, value in zip(totals, terms.total, strict=True)
                ),
                tuple(
                    jnp.maximum(old, jnp.max(jnp.where(fresh, value(*arguments), -jnp.inf), 1))
                    for old, value in zip(largest, terms.largest, strict=True)
                ),
            )

        row = lax.fori_loop(0, column_tiles, add_tile, take(statistics, i, height))
        return put(statistics, row, i, height)

    start = (
        tuple(LogSumExp.start(rows, dtype) for _ in terms.log_sum_exp),
        tuple(jnp.zeros(rows, dtype) for _ in terms.total),
        tuple(jnp.full(rows, -jnp.inf, dtype) for _ in terms.largest),
    )
    log_sum_exps, totals, largest = lax.fori_loop(0, row_tiles, row_of_tiles, start)
    results = [running.result() for running in log_sum_exps]
    sums, expected = zip(*results, strict=True) if results else ((), ())
    return Sums(tuple(sums), tuple(expected), totals, largest)


def _gradients(
    terms: Terms,
    tile: int,
    matrix: _Matrix,
    scalars: PyTree,
    log_sum_exps: tuple[jax.Array, ...],
    sum_cotangents: tuple[jax.Array, ...],
    total_cotangents: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array, PyTree]:
    """Gradients of anchors, candidates and scalars from the cotangents of the reductions."""
    height, row_tiles = tiles(len(matrix.anchors), tile)
    width, column_tiles = tiles(len(matrix.candidates), tile)
    values = (*terms.log_sum_exp, *terms.total)

    def row_of_tiles(i: jax.Array, carry: Any) -> Any:
        cotangents = (sum_cotangents, total_cotangents)
        anchors, sums, weights = take((matrix.anchors, log_sum_exps, cotangents), i, height)

        def add_tile(j: jax.Array, carry: Any) -> Any:
            row_gradient, candidate_gradient, scalar_total = carry
            similarity, row, column = matrix.tile(i, j, height, width)
            fresh = matrix.fresh(i, j, height, width)
            outputs, pull_back = jax.vjp(
                lambda s, k: tuple(value(s, row, column, k) for value in values),
                similarity,
                scalars,
            )
            # The derivative of a log-sum-exp is the softmax, that of a sum is 1.
            slopes = [
                weight[:, None] * _softmax(value, log_sum_exp)
                for weight, value, log_sum_exp in zip(weights[0], outputs, sums, strict=False)
            ]
            slopes += [jnp.broadcast_to(weight[:, None], fresh.shape) for weight in weights[1]]
            gradient, scalar_gradient = pull_back(tuple(jnp.where(fresh, s, 0) for s in slopes))
            row_gradient = row_gradient + product(gradient, take(matrix.candidates, j, width))
            update = take(candidate_gradient, j, width) + product(gradient.T, anchors)
            return (
                row_gradient,
                put(candidate_gradient, update, j, width),
                jax.tree.map(jnp.add, scalar_total, scalar_gradient),
            )

        anchor_gradient, candidate_gradient, scalar_total = carry
        start = (jnp.zeros_like(anchors), candidate_gradient, scalar_total)
        row_gradient, candidate_gradient, scalar_total = lax.fori_loop(
            0, column_tiles, add_tile, start
        )
        # Added, not written: the last tile of rows may overlap the tile before it.
        anchor_gradient = put(
            anchor_gradient, take(anchor_gradient, i, height) + row_gradient, i, height
        )
        return anchor_gradient, candidate_gradient, scalar_total

    start = jax.tree.map(jnp.zeros_like, (matrix.anchors, matrix.candidates, scalars))
    gradients: tuple[jax.Array, jax.Array, PyTree] = lax.fori_loop(
        0, row_tiles, row_of_tiles, start
    )
    return gradients
