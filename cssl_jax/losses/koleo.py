"""The KoLeo regulariser: rows spread over the sphere, by the distance to each one's nearest row."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.similarity import (
    check_positive,
    first_row,
    gather,
    normalize_rows,
    product,
)


def koleo(x: jax.Array, *, epsilon: float = 1e-8, axis_name: str | None = None) -> jax.Array:
    """Minus the mean logarithm of the distance between each row's direction and the nearest other.

    An estimate of the entropy of the directions (Kozachenko and Leonenko; arXiv 1806.03198, eq. 3).
    DINOv2 (arXiv 2304.07193, sec. 4) searches the nearest row among those of one device; here it is
    searched in the global batch, so that the value does not depend on the number of devices. Both
    rows of a pair receive their gradient.

    Args:
        x: Rows of this device, float [n, D]; at least two in the global batch.
        epsilon: Distance that is added in quadrature, so that equal rows cost -ln(epsilon) and
            their gradient is finite.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, the local loss, whose mean over the devices is that of the global batch; float32 or
        wider.

    Example:
        >>> import jax.numpy as jnp
        >>> square = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(float(koleo(square)), 4)  # neighbours at a distance of sqrt(2)
        -0.3466
    """
    check_positive(epsilon=epsilon)
    z = normalize_rows(x)  # float32 or wider
    rows = gather(z, axis_name)
    similarity = product(lax.stop_gradient(z), lax.stop_gradient(rows).T)
    own = first_row(len(z), axis_name) + jnp.arange(len(z))
    similarity = jnp.where(own[:, None] == jnp.arange(len(rows)), -jnp.inf, similarity)
    nearest = rows[jnp.argmax(similarity, axis=1)]
    squared = jnp.sum(jnp.square(z - nearest), axis=1)
    return -jnp.mean(jnp.log(squared + epsilon**2)) / 2
