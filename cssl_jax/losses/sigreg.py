"""SIGReg: the distance of the distribution of projections from an isotropic Gaussian."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.losses.core.batch_statistics import count_rows
from cssl_jax.losses.core.similarity import product

KNOTS, END = 17, 3.0  # of the rule that integrates over frequencies, in the authors' code


def sigreg(z: jax.Array, directions: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Sketched isotropic Gaussian regularisation of LeJEPA (arXiv 2511.08544).

    The rows are projected on directions. Of each direction, the statistic of Epps and Pulley is

        N * integral of |c(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    where c is the empirical characteristic function of the N projections of the global batch, and
    exp(-t^2 / 2) that of N(0, 1). The integral is the trapezoidal rule at 17 frequencies in [0, 3],
    doubled, as in the authors' code. The result is the mean over directions: of the order of 1
    for rows that are N(0, I), and of the order of N for others.

    Memory is that of one frequency: its cosines and sines [n, m] are computed again for the
    gradient.

    Args:
        z: Rows of this device, float [n, d].
        directions: Unit columns [d, m], identical on all devices; see ``random_directions``.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, float32 or wider, identical on all devices.

    Raises:
        UserError: The global batch has one row.

    Example:
        >>> import jax.numpy as jnp
        >>> collapsed = sigreg(jnp.zeros((100, 3)), jnp.eye(3))
        >>> print(f"{collapsed / 100:.3f} per row, {chance_level(100) / 100:.3f}")
        0.402 per row, 0.402
    """
    rows = count_rows(z, axis_name)
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    projected = product(z, directions.astype(z.dtype))
    t, weights, gaussian = (jnp.asarray(x, z.dtype) for x in _rule())

    def moments(frequency: jax.Array) -> tuple[jax.Array, jax.Array]:
        angle = frequency * projected
        return jnp.mean(jnp.cos(angle), axis=0), jnp.mean(jnp.sin(angle), axis=0)

    real, imaginary = _averaged(jax.lax.map(jax.checkpoint(moments), t), axis_name)  # [17, m]
    distance = jnp.square(real - gaussian[:, None]) + jnp.square(imaginary)
    return rows * jnp.mean(weights @ distance)


def random_directions(
    key: jax.Array, width: int, count: int, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Random unit columns [width, count]; another precision draws other directions."""
    normal = jax.random.normal(key, (width, count), dtype)
    columns: jax.Array = normal / jnp.linalg.norm(normal, axis=0)
    return columns


def chance_level(rows: int) -> float:
    """SIGReg of ``rows`` identical projections at the origin."""
    _, weights, gaussian = _rule()
    return float(rows * np.sum(weights * (1 - gaussian) ** 2))


def _averaged(
    moments: tuple[jax.Array, jax.Array], axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    averaged: tuple[jax.Array, jax.Array] = (
        moments if axis_name is None else jax.lax.pmean(moments, axis_name)
    )
    return averaged


def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies, weights of the rule times the Gaussian window, and exp(-t^2 / 2)."""
    t = np.linspace(0, END, KNOTS)
    weights = np.full(KNOTS, 2 * END / (KNOTS - 1))
    weights[[0, -1]] /= 2
    gaussian = np.array([math.exp(-(x**2) / 2) for x in t])
    return t, weights * gaussian, gaussian
