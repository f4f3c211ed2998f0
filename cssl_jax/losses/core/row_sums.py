"""Sums over each row of a similarity matrix, whole or in tiles: the core of the other losses.

A loss names what it sums, by elementwise functions of a similarity and of what is known of its row
and its column; how the matrix is walked through, and the gradient, are the same for all.
"""

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
    tiles,
)
from cssl_jax.losses.core.similarity import product

PyTree = Any
# (similarity [r, c], row tree of [r, 1], column tree of [1, c], scalars) -> [r, c]
Value = Callable[[jax.Array, PyTree, PyTree, PyTree], jax.Array]


class Terms(NamedTuple):
    """What is summed over every row, by name; functions at module level, so that jit knows them.

    Attributes:
        log_sum_exp: Values; -inf is no candidate. Gives the pair (log-sum-exp, mean of the values
            under its softmax); the latter has no gradient.
        total: Values; 0 is no candidate. Gives their sum.
        largest: Values; -inf is no candidate. Gives their maximum, without gradient.
    """

    log_sum_exp: tuple[Value, ...] = ()
    total: tuple[Value, ...] = ()
    largest: tuple[Value, ...] = ()


class Sums(NamedTuple):
    """Of every row, in the order of the terms; [rows] each.

    Attributes:
        log_sum_exp: Of ``Terms.log_sum_exp``.
        expected: Mean of the same values under the softmax.
        total: Of ``Terms.total``.
        largest: Of ``Terms.largest``.
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
    """Sums of functions of ``anchors @ candidates.T`` over its rows.

    In tiles nothing of the size of the matrix is held; the backward pass makes each tile again. It
    gives the gradient of both sides, so candidates that were gathered over an axis get theirs by
    the gather's own derivative, whatever the cotangents on other devices.

    Args:
        terms: What to sum.
        anchors: [m, d].
        candidates: [M, d].
        rows: Tree of [m], what the values know of an anchor; numbers without gradient.
        columns: Tree of [M], likewise of a candidate.
        scalars: Tree of float scalars; they get their gradient.
        tile: Side of a tile; None is the whole matrix, and has higher derivatives.
    """
    dtype = jnp.promote_types(anchors.dtype, jnp.float32)
    scalars = jax.tree.map(lambda x: jnp.asarray(x, dtype), scalars)
    rows, columns = lax.stop_gradient((rows, columns))
    if tile is not None:
        sums = _tiled(terms, tile, anchors, candidates, rows, columns, scalars)
    else:
        seen = (product(anchors, candidates.T), _as_row(rows), _as_column(columns), scalars)
        sums = _whole(terms, seen)
    return sums._replace(
        expected=lax.stop_gradient(sums.expected), largest=lax.stop_gradient(sums.largest)
    )


def _as_row(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x)[:, None], tree)


def _as_column(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def _whole(terms: Terms, seen: tuple[Any, ...]) -> Sums:
    sums, expected = [], []
    for value in terms.log_sum_exp:
        values = value(*seen)
        sums.append(jax.nn.logsumexp(values, axis=1))
        held = lax.stop_gradient(values)
        share = _share(held, lax.stop_gradient(sums[-1]))
        expected.append(jnp.sum(jnp.where(share > 0, share * held, 0), axis=1))
    return Sums(
        tuple(sums),
        tuple(expected),
        tuple(jnp.sum(value(*seen), axis=1) for value in terms.total),
        tuple(jnp.max(value(*lax.stop_gradient(seen)), axis=1) for value in terms.largest),
    )


def _share(values: jax.Array, log_sum_exp: jax.Array) -> jax.Array:
    """Softmax over the row; 0 where the row has no candidate."""
    known = jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0)
    return jnp.exp(values - known[:, None])


# ---------------------------------------------------------------------------------------- in tiles


class _Matrix(NamedTuple):
    anchors: jax.Array
    candidates: jax.Array
    rows: PyTree
    columns: PyTree

    def tile(self, i: jax.Array, j: jax.Array, height: int, width: int) -> tuple[Any, ...]:
        """(similarities, row tree, column tree) of a tile."""
        anchors, row = take((self.anchors, self.rows), i, height)
        candidates, column = take((self.candidates, self.columns), j, width)
        return product(anchors, candidates.T), _as_row(row), _as_column(column)

    def fresh(self, i: jax.Array, j: jax.Array, height: int, width: int) -> jax.Array:
        """Bool [height, width]: entries that no earlier tile has had."""
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


def _backward(terms: Terms, tile: int, kept: Any, cotangents: Sums) -> tuple[Any, ...]:
    pull = once_differentiable(functools.partial(_pull, terms, tile))
    anchors, candidates, scalars = pull(*kept, cotangents.log_sum_exp, cotangents.total)
    return anchors, candidates, None, None, scalars


_tiled.defvjp(_forward, _backward)


def _statistics(terms: Terms, tile: int, matrix: _Matrix, scalars: PyTree) -> Sums:
    rows, dtype = len(matrix.anchors), matrix.anchors.dtype
    height, row_tiles = tiles(rows, tile)
    width, column_tiles = tiles(len(matrix.candidates), tile)

    def row_of_tiles(i: jax.Array, found: Any) -> Any:
        def one(j: jax.Array, running: Any) -> Any:
            seen = (*matrix.tile(i, j, height, width), scalars)
            fresh = matrix.fresh(i, j, height, width)
            log_sum_exps, totals, largest = running
            return (
                tuple(
                    old.add(jnp.where(fresh, value(*seen), -jnp.inf), 1)
                    for old, value in zip(log_sum_exps, terms.log_sum_exp, strict=True)
                ),
                tuple(
                    old + jnp.sum(jnp.where(fresh, value(*seen), 0), 1)
                    for old, value in zip(totals, terms.total, strict=True)
                ),
                tuple(
                    jnp.maximum(old, jnp.max(jnp.where(fresh, value(*seen), -jnp.inf), 1))
                    for old, value in zip(largest, terms.largest, strict=True)
                ),
            )

        return put(found, lax.fori_loop(0, column_tiles, one, take(found, i, height)), i, height)

    start = (
        tuple(LogSumExp.start(rows, dtype) for _ in terms.log_sum_exp),
        tuple(jnp.zeros(rows, dtype) for _ in terms.total),
        tuple(jnp.full(rows, -jnp.inf, dtype) for _ in terms.largest),
    )
    log_sum_exps, totals, largest = lax.fori_loop(0, row_tiles, row_of_tiles, start)
    results = [running.result() for running in log_sum_exps]
    sums, expected = zip(*results, strict=True) if results else ((), ())
    return Sums(tuple(sums), tuple(expected), totals, largest)


def _pull(
    terms: Terms,
    tile: int,
    matrix: _Matrix,
    scalars: PyTree,
    log_sum_exps: tuple[jax.Array, ...],
    by_sum: tuple[jax.Array, ...],
    by_total: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array, PyTree]:
    """Gradients of anchors, candidates and scalars for cotangents of the sums and totals."""
    height, row_tiles = tiles(len(matrix.anchors), tile)
    width, column_tiles = tiles(len(matrix.candidates), tile)
    values = (*terms.log_sum_exp, *terms.total)

    def row_of_tiles(i: jax.Array, carry: Any) -> Any:
        anchors, sums, weights = take((matrix.anchors, log_sum_exps, (by_sum, by_total)), i, height)

        def one(j: jax.Array, carry: Any) -> Any:
            mine, theirs, scalar = carry
            similarity, row, column = matrix.tile(i, j, height, width)
            fresh = matrix.fresh(i, j, height, width)
            found, pull = jax.vjp(
                lambda s, k: tuple(value(s, row, column, k) for value in values),
                similarity,
                scalars,
            )
            shares = [
                weight[:, None] * _share(value, log_sum_exp)
                for weight, value, log_sum_exp in zip(weights[0], found, sums, strict=False)
            ]
            shares += [jnp.broadcast_to(weight[:, None], fresh.shape) for weight in weights[1]]
            gradient, scalar_gradient = pull(tuple(jnp.where(fresh, s, 0) for s in shares))
            mine = mine + product(gradient, take(matrix.candidates, j, width))
            update = take(theirs, j, width) + product(gradient.T, anchors)
            return (
                mine,
                put(theirs, update, j, width),
                jax.tree.map(jnp.add, scalar, scalar_gradient),
            )

        mine, theirs, scalar = carry
        start = (jnp.zeros_like(anchors), theirs, scalar)
        part, theirs, scalar = lax.fori_loop(0, column_tiles, one, start)
        return put(mine, take(mine, i, height) + part, i, height), theirs, scalar

    start = jax.tree.map(jnp.zeros_like, (matrix.anchors, matrix.candidates, scalars))
    return lax.fori_loop(0, row_tiles, row_of_tiles, start)
