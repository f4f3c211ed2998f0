"""What can be told of features without labels.

Every function takes features [N, D] of any length and any float type, one row an example, and
computes in at least float32. A zero row has no direction and stays zero.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import unit_length

Array = jax.Array | np.ndarray
_HIGHEST = jax.lax.Precision.HIGHEST


def alignment(z1: Array, z2: Array) -> jax.Array:
    """Mean squared distance of unit-length positives (arXiv 2005.10242, alpha = 2); 0 is best.

    Args:
        z1: Features [N, D] of one view.
        z2: Features [N, D] of another view of the same examples.

    Returns:
        Scalar in [0, 4].

    Raises:
        UserError: The shapes differ.
    """
    _check_views(z1, z2)
    a, b = unit_length(jnp.asarray(z1)), unit_length(jnp.asarray(z2))
    return jnp.mean(jnp.sum(jnp.square(a - b), axis=-1))


def uniformity(z: Array, *, block_size: int = 1024) -> jax.Array:
    """Log mean exp(-2 ||zi - zj||^2) over distinct pairs of unit length (arXiv 2005.10242, t = 2).

    0 where all features agree, about -4 where they spread over a sphere of many dimensions.

    Args:
        z: Features [N, D], N at least 2.
        block_size: Rows at a time: memory is block_size x N floats.

    Returns:
        Scalar in [-8, 0].

    Raises:
        UserError: There is no pair.
    """
    if z.ndim != 2 or len(z) < 2:
        raise UserError(f"uniformity of features {z.shape}; give [N, D] with at least two rows")
    unit = unit_length(jnp.asarray(z))
    n = len(unit)
    sums = [_pair_sums(unit, unit[i : i + block_size], i) for i in range(0, n, block_size)]
    return jax.nn.logsumexp(jnp.stack(sums)) - jnp.log(n * (n - 1.0))


@jax.jit
def _pair_sums(z: jax.Array, rows: jax.Array, first: int) -> jax.Array:
    product = jnp.matmul(rows, z.T, precision=_HIGHEST)
    # Not 2 - 2 cos: the zero rows of a dead encoder are at distance 0, and must not look spread.
    lengths = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(z), axis=1)[None, :]
    exponent = -2.0 * jnp.maximum(lengths - 2.0 * product, 0.0)  # rounding may pass below 0
    itself = jnp.arange(len(z))[None, :] == (first + jnp.arange(len(rows)))[:, None]
    return jax.nn.logsumexp(jnp.where(itself, -jnp.inf, exponent))


def rankme(features: Array, *, epsilon: float = 1e-7) -> jax.Array:
    """Smooth rank: exp of the entropy of the singular values' shares (arXiv 2210.02885, eq. 1).

    Features are not centred, as in the paper; between 1 (collapsed to a line) and min(N, D), which
    epsilon lets it pass by at most a share of about epsilon min(N, D) ln(1 / epsilon).

    Args:
        features: [N, D].
        epsilon: Added to every share.
    """
    x = jnp.asarray(features)
    values = jnp.linalg.svd(x.astype(jnp.promote_types(x.dtype, jnp.float32)), compute_uv=False)
    shares = values / jnp.maximum(jnp.sum(values), jnp.finfo(values.dtype).tiny) + epsilon
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))


def per_dimension_std(features: Array) -> jax.Array:
    """Standard deviation [D] of unit-length features [N, D]; near 1 / sqrt(D), 0 if collapsed."""
    return jnp.std(unit_length(jnp.asarray(features)), axis=0)


def view_retrieval(z1: np.ndarray, z2: np.ndarray, *, block_size: int = 1024) -> float:
    """Share of rows whose cosine-nearest row of the other view is their own pair, both ways.

    Chance is 1 / N. A row as near to another as to its pair counts as missed, so that a collapsed
    encoder does not score.

    Args:
        z1: Features [N, D] of one view.
        z2: Features [N, D] of another view of the same examples.
        block_size: Rows at a time: memory is block_size x N floats.

    Returns:
        Mean of both directions, in [0, 1].

    Raises:
        UserError: The shapes differ.
    """
    _check_views(z1, z2)
    a, b = unit_length(jnp.asarray(z1)), unit_length(jnp.asarray(z2))
    hits = 0
    for anchors, candidates in ((a, b), (b, a)):
        for i in range(0, len(a), block_size):
            hits += int(_hits(anchors[i : i + block_size], candidates, i))
    return hits / (2 * len(a))


@jax.jit
def _hits(anchors: jax.Array, candidates: jax.Array, first: int) -> jax.Array:
    similarity = jnp.matmul(anchors, candidates.T, precision=_HIGHEST)
    own = (first + jnp.arange(len(anchors)))[:, None]
    positive = jnp.take_along_axis(similarity, own, axis=1)[:, 0]
    others = jnp.where(jnp.arange(len(candidates))[None, :] == own, -jnp.inf, similarity)
    return jnp.sum(positive > jnp.max(others, axis=1))


def _check_views(z1: Array, z2: Array) -> None:
    if z1.ndim != 2 or z1.shape != z2.shape or not len(z1):
        raise UserError(
            f"the views have shapes {z1.shape} and {z2.shape}; give two [N, D] with row i of both "
            "from one example"
        )
