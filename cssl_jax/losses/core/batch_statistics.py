"""Statistics of features over the global batch, and sums over their covariance matrix."""

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import gather, product


def centred(z: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """(rows minus the mean of all rows [..., n, d], biased variance per feature [..., d]).

    Float32 or wider; the variance is identical on every device.

    Args:
        z: Rows of this device, float [..., n, d].
        axis_name: Mapped axis that the rows are split over; None on a single device.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    # E[z z'] - E[z] E[z]' cancels where the mean is large, so the rows are centred first.
    rows = z - _mean_of_rows(z, axis_name)
    return rows, _mean_of_rows(jnp.square(rows), axis_name)[..., 0, :]


def count_rows(z: jax.Array, axis_name: str | None) -> int:
    """Number of rows of z [..., n, d] on all devices.

    Raises:
        UserError: There is one row, which has no variance.
    """
    rows: int = z.shape[-2] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    if rows < 2:
        raise UserError("1 row has no variance; give a global batch of 2 or more")
    return rows


def sum_of_squares(
    a: jax.Array, b: jax.Array, axis_name: str | None, gram: bool | None = None
) -> jax.Array:
    """Sum of the squared entries of A^T B, where A and B have the rows of all devices.

    The d x d matrix A^T B costs 2 n d^2 operations and one sum over devices. Alternatively, the sum
    is <A A^T, B B^T>, which costs 4 n N d operations, a gather of the rows, and no d x d matrix.

    Args:
        a: Rows of this device, float [n, d].
        b: Rows of this device, float [n, d]; ``a`` itself for a covariance.
        axis_name: Mapped axis that the rows are split over; None on a single device.
        gram: True for the products of rows, False for the d x d matrix; None: what costs fewer
            operations.

    Returns:
        Scalar whose mean over devices is the sum, float32 or wider.
    """
    rows = count_rows(a, axis_name)
    same = a is b
    if gram is None:
        gram = (1 if same else 2) * rows < a.shape[-1]
    if gram:
        first = product(a, gather(a, axis_name).T)
        second = first if same else product(b, gather(b, axis_name).T)
        return jnp.sum(first * second) * (rows // len(a))
    products = product(a.T, b)
    if axis_name is not None:
        products = jax.lax.psum(products, axis_name)
    return jnp.sum(jnp.square(products))


def _mean_of_rows(z: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(z, axis=-2, keepdims=True)
    averaged: jax.Array = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    return averaged
