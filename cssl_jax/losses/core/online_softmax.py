"""Row statistics that take the similarity matrix tile by tile, and tiles of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.errors import UserError

LOWEST = -1e30  # below every logit, yet finite: the difference of two of them is no NaN


class LogSumExp(NamedTuple):
    """Log-sum-exp of values that come in parts (arXiv 1805.02867, Alg. 3), and their mean under it.

    Attributes:
        largest: [rows], so far.
        total: [rows], sum of exp(value - largest).
        weighted: [rows], sum of exp(value - largest) value.
    """

    largest: jax.Array
    total: jax.Array
    weighted: jax.Array

    @staticmethod
    def start(rows: int, dtype: Any) -> "LogSumExp":
        """Of no values."""
        zeros = jnp.zeros(rows, dtype)
        return LogSumExp(zeros + LOWEST, zeros, zeros)

    def add(self, values: jax.Array, axis: int) -> "LogSumExp":
        """With ``values`` [rows, k] (axis 1) or [k, rows] (axis 0); -inf is no value."""
        largest = jnp.maximum(self.largest, jnp.max(values, axis))
        share = jnp.exp(values - jnp.expand_dims(largest, axis))
        shrink = jnp.exp(self.largest - largest)
        weighted = jnp.sum(jnp.where(share > 0, share * values, 0), axis)
        return LogSumExp(
            largest,
            self.total * shrink + jnp.sum(share, axis),
            self.weighted * shrink + weighted,
        )

    def result(self) -> tuple[jax.Array, jax.Array]:
        """(log-sum-exp, mean of the values under its softmax), [rows] each; -inf and 0 of none."""
        total = jnp.where(self.total > 0, self.total, 1)
        value = jnp.where(self.total > 0, self.largest + jnp.log(total), -jnp.inf)
        return value, self.weighted / total


def tiles(size: int, tile: int) -> tuple[int, int]:
    """(side of a tile, number of tiles) for so many rows; the last tile may reach back."""
    side = min(tile, size)
    return side, -(-size // side)


def tile_pair(number: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Tile numbers (i, j) of one of the count (count - 1) / 2 unordered pairs of different tiles.

    Arithmetic instead of a list of pairs, which would grow with the square of the batch: j is 1, 2,
    ... places after i around a circle of ``count`` tiles, with all i for 1 first. At an even count
    the last distance, count / 2, has half as many pairs, and the numbers end there.

    >>> [(int(i), int(j)) for i, j in (tile_pair(jnp.int32(k), 4) for k in range(6))]
    [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    """
    i, distance = lax.rem(number, count), 1 + lax.div(number, count)
    return i, lax.rem(i + distance, count)


def take(tree: Any, number: jax.Array, side: int) -> Any:
    """Rows of tile ``number``. The last one ends with the array, so it may repeat earlier rows."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, number * side, side), tree)


def put(tree: Any, part: Any, number: jax.Array, side: int) -> Any:
    """The inverse of ``take``."""
    return jax.tree.map(
        lambda x, p: lax.dynamic_update_slice_in_dim(x, p, number * side, 0), tree, part
    )


def repeated(size: int, number: jax.Array, side: int) -> jax.Array:
    """Bool [side]: rows of a tile that an earlier tile has had."""
    start = jnp.minimum(number * side, size - side)
    return start + jnp.arange(side) < number * side


def once_differentiable(function: Any) -> Any:
    """A function that is part of a derivative, and has none itself.

    Differentiating a loop over tiles once more would keep every tile.
    """

    @jax.custom_jvp
    def guarded(*args: Any) -> Any:
        return function(*args)

    @guarded.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise UserError(
            "a loss in tiles has first derivatives only; give tile_size=None for higher ones"
        )

    return guarded
