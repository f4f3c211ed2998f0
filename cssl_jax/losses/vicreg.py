"""VICReg: invariance, variance and covariance terms of two views' projections."""

import jax
import jax.numpy as jnp

from cssl_jax.losses.core.batch_statistics import centred, count_rows, sum_of_squares
from cssl_jax.losses.core.similarity import check_pairs

EPSILON = 1e-4  # added to the variance before the square root


def vicreg(
    z1: jax.Array,
    z2: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    axis_name: str | None = None,
    gram: bool | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of VICReg (arXiv 2105.04906), with the factors of the authors' code.

    For views v of the global batch, with unbiased statistics, std = sqrt(var + 1e-4):

    - invariance: mean over N and d of (z1 - z2)^2; the paper's formula sums over d;
    - variance: mean over the views and d of max(0, 1 - std); the paper's formula sums over the
      views, which is twice as much;
    - covariance: sum over the views of sum_{i != j} cov_ij^2 / d.

    Args:
        z1: Projections of the first view, rows of this device, float [n, d].
        z2: Projections of the second view, float [n, d]; row i shows the example of row i of z1.
        invariance: Weight of the invariance term.
        variance: Weight of the variance term.
        covariance: Weight of the covariance term.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        gram: How the sum over the covariance matrix is computed, see ``sum_of_squares``; None: what
            costs fewer operations.

    Returns:
        (local loss, terms before their weights {"invariance", "variance", "covariance"}): scalars,
        float32 or wider, whose means over devices are the values of the global batch.

    Raises:
        UserError: The shapes differ, or the global batch has one row.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> loss, terms = vicreg(z, -z)  # invariance: the mean of 2^2; no other term
        >>> float(loss), float(terms["invariance"])
        (100.0, 4.0)
    """
    check_pairs(z1, z2)
    rows = count_rows(z1, axis_name)
    values, biased = centred(jnp.stack([z1, z2]), axis_name)
    unbiased = biased * (rows / (rows - 1))  # [2, d]
    wide = jnp.stack([z1, z2]).astype(values.dtype)
    terms = {
        "invariance": jnp.mean(jnp.square(wide[0] - wide[1])),
        "variance": jnp.mean(jax.nn.relu(1 - jnp.sqrt(unbiased + EPSILON))),
    }
    entries = sum(sum_of_squares(z, z, axis_name, gram) for z in values) / (rows - 1) ** 2
    terms["covariance"] = (entries - jnp.sum(jnp.square(unbiased))) / z1.shape[1]
    loss = (
        invariance * terms["invariance"]
        + variance * terms["variance"]
        + covariance * terms["covariance"]
    )
    return loss, terms


def chance_level(variance: float) -> float:
    """Loss of projections that are identical for all images: the variance term alone."""
    return float(variance * (1 - EPSILON**0.5))
