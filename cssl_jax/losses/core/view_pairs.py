"""Cross entropy of predictions from each view with the targets of all other views."""

import jax
import jax.numpy as jnp
from jax import lax


def mean_cross_entropy(targets: jax.Array, log_predictions: jax.Array) -> jax.Array:
    """Mean over the pairs of a target's view and another view, and over this device's rows.

    The first T of the V views are those of the targets, so there are T (V - 1) pairs. SwAV
    (arXiv 2006.09882, eq. 2 and sec. 3.2) and DINO (arXiv 2104.14294, eq. 3) share this sum.

    Args:
        targets: Distributions over K prototypes, float [n, T, K], T at most V.
        log_predictions: Logarithms of distributions, float [n, V, K].

    Returns:
        Float scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> uniform = jnp.full((4, 2, 2), 0.5)
        >>> round(float(mean_cross_entropy(uniform, jnp.log(uniform))), 4)  # ln 2
        0.6931
    """
    # Sums over the prototypes are products: no array [n, T, V, K] is made.
    highest = lax.Precision.HIGHEST
    crossed = -jnp.einsum("ntk,nvk->ntv", targets, log_predictions, precision=highest)
    _, assigned, views = crossed.shape
    others = 1 - jnp.eye(assigned, views, dtype=crossed.dtype)
    return jnp.mean(jnp.sum(crossed * others, axis=(1, 2))) / jnp.sum(others)
