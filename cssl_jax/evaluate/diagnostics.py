"""Label-free diagnostics of features: alignment, uniformity, rank, retrieval of views.

Every function takes features [N, D] of any norm and any float type, one row per example, and
computes in float32 or wider. A zero row has no direction and stays zero.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import normalize_rows

Array = jax.Array | np.ndarray
_HIGHEST = jax.lax.Precision.HIGHEST


def alignment(z1: Array, z2: Array) -> jax.Array:
    """Mean squared distance of unit-norm positives (arXiv 2005.10242, alpha = 2); 0 is best.

    Args:
        z1: Features [N, D] of one view per example.
        z2: Features [N, D] of another view of the same examples.

    Returns:
        Scalar in [0, 4].

    Raises:
        UserError: The shapes differ or are not [N, D] with N of at least 1.

    Example:
        >>> import numpy as np
        >>> x = np.eye(2, dtype=np.float32)
        >>> float(alignment(x, 2 * x)), float(alignment(x, -x))
        (0.0, 4.0)
    """
    _check_views(z1, z2)
    found: jax.Array = _alignment(jnp.asarray(z1), jnp.asarray(z2))
    return found


@jax.jit  # as everything here: each operation outside would be compiled by itself
def _alignment(z1: jax.Array, z2: jax.Array) -> jax.Array:
    a, b = normalize_rows(z1), normalize_rows(z2)
    return jnp.mean(jnp.sum(jnp.square(a - b), axis=-1))


def uniformity(z: Array, *, block_size: int = 1024) -> jax.Array:
    """Log mean exp(-2 ||zi - zj||^2) over distinct unit-norm pairs (arXiv 2005.10242, t = 2).

    The value is 0 if all features are identical and about -4 if they are spread over a sphere of
    many dimensions.

    Args:
        z: Features [N, D], N at least 2.
        block_size: Number of rows computed at a time; memory is block_size x N floats.

    Returns:
        Scalar in [-8, 0].

    Raises:
        UserError: ``z`` is no matrix with at least two rows.

    Example:
        >>> import numpy as np
        >>> round(float(uniformity(np.eye(3, dtype=np.float32))), 4)  # all squared distances are 2
        -4.0
    """
    if z.ndim != 2 or len(z) < 2:
        raise UserError(f"uniformity of features {z.shape}; give [N, D] with at least two rows")
    unit = _unit_rows(jnp.asarray(z))
    n = len(unit)
    sums = [_pair_sums(unit, unit[i : i + block_size], i) for i in range(0, n, block_size)]
    found: jax.Array = _log_mean(sums, n * (n - 1.0))
    return found


_unit_rows = jax.jit(normalize_rows)


@jax.jit
def _log_mean(log_sums: list[jax.Array], count: float) -> jax.Array:
    return jax.nn.logsumexp(jnp.stack(log_sums)) - jnp.log(count)


@jax.jit
def _pair_sums(z: jax.Array, rows: jax.Array, first: int) -> jax.Array:
    """Log of the sum of exp(-2 d^2) over pairs of ``rows``, from row ``first`` on, and other z."""
    product = jnp.matmul(rows, z.T, precision=_HIGHEST)
    # Not 2 - 2 cos: the zero rows of a dead encoder are at distance 0 and must not look uniform.
    squares = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(z), axis=1)[None, :]
    exponent = -2.0 * jnp.maximum(squares - 2.0 * product, 0.0)  # rounding can give less than 0
    is_self = jnp.arange(len(z))[None, :] == (first + jnp.arange(len(rows)))[:, None]
    return jax.nn.logsumexp(jnp.where(is_self, -jnp.inf, exponent))


def rankme(features: Array, *, epsilon: float = 1e-7) -> jax.Array:
    """RankMe, exp of the entropy of the normalised singular values (arXiv 2210.02885, eq. 1).

    Features are not centred, as in the paper. The value is between 1 (collapsed to a line) and
    min(N, D). Because of epsilon it can exceed min(N, D) by a fraction of at most about
    epsilon min(N, D) ln(1 / epsilon).

    Args:
        features: Features [N, D].
        epsilon: Number added to every singular value after division by their sum.

    Returns:
        Scalar, an effective number of dimensions.

    Example:
        >>> import numpy as np
        >>> round(float(rankme(np.eye(3, dtype=np.float32))), 3)
        3.0
    """
    chex.assert_rank(features, 2)
    found: jax.Array = _rankme(jnp.asarray(features), epsilon)
    return found


@jax.jit
def _rankme(x: jax.Array, epsilon: float) -> jax.Array:
    values = jnp.linalg.svd(x.astype(jnp.promote_types(x.dtype, jnp.float32)), compute_uv=False)
    # The maximum makes features that are all zero have rank 1, not NaN.
    fractions = values / jnp.maximum(jnp.sum(values), jnp.finfo(values.dtype).tiny) + epsilon
    return jnp.exp(-jnp.sum(fractions * jnp.log(fractions)))


def per_dimension_std(features: Array) -> jax.Array:
    """Standard deviation [D] per dimension of unit-norm features [N, D].

    The values are near 1 / sqrt(D) for features spread over the sphere and 0 for collapsed ones.
    """
    chex.assert_rank(features, 2)
    found: jax.Array = _unit_std(jnp.asarray(features))
    return found


@jax.jit
def _unit_std(x: jax.Array) -> jax.Array:
    return jnp.std(normalize_rows(x), axis=0)


def view_retrieval(z1: np.ndarray, z2: np.ndarray, *, block_size: int = 1024) -> float:
    """Fraction of rows whose nearest row of the other view belongs to the same example.

    Nearest is by cosine similarity. Chance is 1 / N. A row that is as similar to another example as
    to its own counts as a miss, so that a collapsed encoder does not score.

    Args:
        z1: Features [N, D] of one view per example.
        z2: Features [N, D] of another view of the same examples.
        block_size: Number of rows computed at a time; memory is block_size x N floats.

    Returns:
        Mean of both directions (z1 to z2 and z2 to z1), in [0, 1].

    Raises:
        UserError: The shapes differ or are not [N, D] with N of at least 1.

    Example:
        >>> import numpy as np
        >>> x = np.eye(3, dtype=np.float32)
        >>> view_retrieval(x, x), view_retrieval(x, np.roll(x, 1, axis=0))
        (1.0, 0.0)
    """
    _check_views(z1, z2)
    a, b = _unit_rows(jnp.asarray(z1)), _unit_rows(jnp.asarray(z2))
    hits = 0
    for anchors, candidates in ((a, b), (b, a)):
        for i in range(0, len(a), block_size):
            hits += int(_hits(anchors[i : i + block_size], candidates, i))
    return hits / (2 * len(a))


@jax.jit
def _hits(anchors: jax.Array, candidates: jax.Array, first: int) -> jax.Array:
    """Number of anchors, from row ``first`` on, that are nearest to the candidate of their row."""
    similarity = jnp.matmul(anchors, candidates.T, precision=_HIGHEST)
    row = (first + jnp.arange(len(anchors)))[:, None]
    positive = jnp.take_along_axis(similarity, row, axis=1)[:, 0]
    negatives = jnp.where(jnp.arange(len(candidates))[None, :] == row, -jnp.inf, similarity)
    return jnp.sum(positive > jnp.max(negatives, axis=1))


def _check_views(z1: Array, z2: Array) -> None:
    if z1.ndim != 2 or z1.shape != z2.shape or not len(z1):
        raise UserError(
            f"the views have shapes {z1.shape} and {z2.shape}; give two arrays [N, D] whose rows i "
            "belong to the same example"
        )
