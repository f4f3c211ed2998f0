"""CORAL: squared distance between the covariances of two sets of features (Deep CORAL)."""

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError

_HIGHEST = jax.lax.Precision.HIGHEST


def coral(source: jax.Array, target: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """CORAL loss (Sun & Saenko 2016, arXiv 1607.01719, eq. 1): ||C_S - C_T||_F^2 / (4 d^2).

    The covariances are computed over the global batch and divided by N - 1, as in eq. 2 and 3.

    Args:
        source: Features of the source domain, rows of this device, float [n, d].
        target: Features of the target domain, rows of this device, float [n, d].
        axis_name: Mapped axis that the rows are split over; None on a single device.

    Returns:
        Scalar, float32 or wider, identical on every device.

    Raises:
        UserError: The shapes differ, or the global batch has one row.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(coral(x, 2 * x)), 4)  # covariances 4/3 I and 16/3 I
        2.0
    """
    if source.ndim != 2 or source.shape != target.shape:
        raise UserError(
            f"source features are {source.shape}, target features {target.shape}; give two arrays "
            "of the same shape [n, d]"
        )
    difference = _covariance(source, axis_name) - _covariance(target, axis_name)
    return jnp.sum(jnp.square(difference)) / (4 * source.shape[1] ** 2)


def _covariance(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Covariance [d, d] of the rows on all devices, divided by the number of rows minus 1."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rows = len(x) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    if rows < 2:
        raise UserError("1 row has no covariance; give a global batch of 2 or more")
    mean = jnp.mean(x, axis=0)
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    # E[x x'] - E[x] E[x]' cancels where the mean is large, so the rows are centred first.
    centred = x - mean
    products = jnp.matmul(centred.T, centred, precision=_HIGHEST)
    if axis_name is not None:
        products = jax.lax.psum(products, axis_name)
    return products / (rows - 1)
