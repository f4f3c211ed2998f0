"""Online log-sum-exp over the tiles of a similarity matrix, and slicing of arrays into tiles."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.errors import UserError

LOWEST = -1e30  # below every logit, yet finite: the difference of two such values is 0, not NaN


class LogSumExp(NamedTuple):
    """Online log-sum-exp and softmax mean per row (online softmax, arXiv 1805.02867, Alg. 3).

    Attributes:
        largest: Largest value so far, float [rows].
        total: Sum of exp(value - largest), float [rows].
        weighted: Sum of exp(value - largest) * value, float [rows].
    """

    largest: jax.Array
    total: jax.Array
    weighted: jax.Array

    @staticmethod
    def start(rows: int, dtype: Any) -> "LogSumExp":
        """Returns the accumulator of an empty set of values."""
        zeros = jnp.zeros(rows, dtype)
        return LogSumExp(zeros + LOWEST, zeros, zeros)

    def add(self, values: jax.Array, axis: int) -> "LogSumExp":
        """Adds ``values`` [rows, k] (axis 1) or [k, rows] (axis 0); entries of -inf are ignored."""
        largest = jnp.maximum(self.largest, jnp.max(values, axis))
        exponential = jnp.exp(values - jnp.expand_dims(largest, axis))
        rescale = jnp.exp(self.largest - largest)
        # 0 times -inf would be NaN.
        weighted = jnp.sum(jnp.where(exponential > 0, exponential * values, 0), axis)
        return LogSumExp(
            largest,
            self.total * rescale + jnp.sum(exponential, axis),
            self.weighted * rescale + weighted,
        )

    def result(self) -> tuple[jax.Array, jax.Array]:
        """(log-sum-exp, mean under the softmax), float [rows] each; (-inf, 0) for an empty row."""
        total = jnp.where(self.total > 0, self.total, 1)
        value = jnp.where(self.total > 0, self.largest + jnp.log(total), -jnp.inf)
        return value, self.weighted / total


def tiles(size: int, tile: int) -> tuple[int, int]:
    """(tile side, number of tiles) for ``size`` rows; the last tile may overlap its neighbour."""
    side = min(tile, size)
    return side, -(-size // side)


def tile_pair(number: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Tile numbers (i, j) of one of the count (count - 1) / 2 unordered pairs of different tiles.

    The pair is computed rather than read from a list, which would grow with the square of the
    batch. The tiles form a circle and j follows i at a distance of 1, 2, ... tiles. All i with
    distance 1 come first. For an even count the last distance, count / 2, has half as many pairs,
    and the numbers end there.

    >>> [(int(i), int(j)) for i, j in (tile_pair(jnp.int32(k), 4) for k in range(6))]
    [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    """
    i, distance = lax.rem(number, count), 1 + lax.div(number, count)
    return i, lax.rem(i + distance, count)


def take(tree: Any, number: jax.Array, side: int) -> Any:
    """Rows of tile ``number``. The last tile ends with the array, so it may repeat earlier rows."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, number * side, side), tree)


def put(tree: Any, part: Any, number: jax.Array, side: int) -> Any:
    """Writes ``part`` into the rows of tile ``number``: the inverse of ``take``."""
    return jax.tree.map(
        lambda x, p: lax.dynamic_update_slice_in_dim(x, p, number * side, 0), tree, part
    )


def repeated(size: int, number: jax.Array, side: int) -> jax.Array:
    """Bool [side]: True at rows of tile ``number`` that an earlier tile contains as well."""
    start = jnp.minimum(number * side, size - side)
    return start + jnp.arange(side) < number * side


def once_differentiable(function: Any) -> Any:
    """Makes differentiation of ``function`` raise UserError.

    The function computes a first derivative in a loop over tiles. Differentiating that loop again
    would store every tile.
    """

    @jax.custom_jvp
    def guarded(*args: Any) -> Any:
        return function(*args)

    @guarded.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise UserError(
            "a tiled loss has first derivatives only; give tile_size=None for higher ones"
        )

    return guarded
