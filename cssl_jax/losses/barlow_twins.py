"""Barlow Twins: the cross-correlation of two views' projections is to be the identity."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.batch_statistics import centred, count_rows, sum_of_squares
from cssl_jax.losses.core.similarity import check_pairs


def barlow_twins(
    z1: jax.Array,
    z2: jax.Array,
    *,
    off_diagonal: float = 0.0051,
    axis_name: str | None = None,
    gram: bool | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of Barlow Twins (arXiv 2103.03230, eq. 1): sum_i (1 - C_ii)^2 + lambda sum_ij C_ij^2.

    C is the cross-correlation over the global batch of features that are normalised with the
    statistics of the global batch: C = Z1^T Z2 / N with biased variances and an epsilon of 1e-5, as
    in the authors' code. Both terms are sums over the d or d (d - 1) entries, without a factor of
    1/2.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d].
        z2: Projections of the second view, float [n, d]; row i shows the example of row i of z1.
        off_diagonal: lambda, weight of the sum over the entries off the diagonal.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        gram: How the sum over all entries is computed, see ``sum_of_squares``; None: what costs
            fewer operations.

    Returns:
        (local loss, {"invariance", "redundancy"}): scalars, float32 or wider. The loss is the
        invariance term plus lambda times the redundancy term. Their means over devices are the
        values of the global batch.

    Raises:
        UserError: The shapes differ, or the global batch has one row.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(barlow_twins(z, z)[0]), 4)  # uncorrelated columns
        0.0
        >>> round(float(barlow_twins(z, -z)[0]), 2)  # (1 + 1)^2 for either column
        8.0
    """
    check_pairs(z1, z2)
    rows = count_rows(z1, axis_name)
    values, variance = centred(jnp.stack([z1, z2]), axis_name)
    first, second = values * lax.rsqrt(variance + 1e-5)[:, None]
    diagonal = jnp.mean(first * second, axis=0)
    if axis_name is not None:
        diagonal = lax.pmean(diagonal, axis_name)
    invariance = jnp.sum(jnp.square(1 - diagonal))
    entries = sum_of_squares(first, second, axis_name, gram) / rows**2
    redundancy = entries - jnp.sum(jnp.square(diagonal))
    loss = invariance + off_diagonal * redundancy
    return loss, {"invariance": invariance, "redundancy": redundancy}


def chance_level(batch_size: int, width: int, off_diagonal: float) -> float:
    """Expected loss of two views with independent, white projections: C_ii = 0, C_ij^2 = 1 / N."""
    return width + off_diagonal * width * (width - 1) / batch_size
