"""Negative cosine similarity of predictions and fixed targets: the loss of SimSiam and BYOL."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.batch_statistics import centred
from cssl_jax.losses.core.similarity import check_pairs, normalize_rows


def negative_cosine(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of -cos(prediction, target) over the rows of this device, within [-1, 1].

    SimSiam (arXiv 2011.10566, eq. 1) is the mean of both directions. BYOL (arXiv 2006.07733, eq. 2)
    is the sum over both directions of 2 + 2 times this value.

    Args:
        predictions: Predictions, rows of this device, float [n, d]; any norm.
        targets: Targets, float [n, d]; they receive no gradient.

    Returns:
        Scalar, the local loss, float32 or wider.

    Raises:
        UserError: The shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.eye(2)
        >>> float(negative_cosine(x, 3 * x))
        -1.0
    """
    check_pairs(predictions, targets, "predictions and targets")
    targets = lax.stop_gradient(normalize_rows(targets))
    return -jnp.mean(jnp.sum(normalize_rows(predictions) * targets, axis=-1))


def unit_std(z: jax.Array, axis_name: str | None) -> jax.Array:
    """Root of the summed variance of the unit rows of the global batch: a measure of collapse.

    Args:
        z: Rows of this device, float [n, d]; any norm.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar in [0, 1] without gradient: 0 if all rows have one direction, 1 if directions are
        spread about the origin.

    Example:
        >>> import jax.numpy as jnp
        >>> float(unit_std(jnp.array([[2.0, 0.0], [-1.0, 0.0]]), None))  # opposite directions
        1.0
        >>> float(unit_std(jnp.ones((4, 1)), None))  # one direction: collapse
        0.0
    """
    _, variance = centred(normalize_rows(lax.stop_gradient(z)), axis_name)
    return jnp.sqrt(jnp.sum(variance))
