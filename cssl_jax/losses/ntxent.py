"""NT-Xent, the loss of SimCLR."""

import math

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.losses.similarity import Contrast, two_view_contrast


def nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
) -> jax.Array:
    """Normalised temperature-scaled cross entropy (arXiv 2002.05709, eq. 1 and Alg. 1).

    The mean over the 2n anchors of this device; every other row of the global batch is a candidate.
    Equal vectors give the chance level ln(2N - 1). The authors' TensorFlow code returns twice this
    value.

    Args:
        z1: Projections of the first view, this device's rows, [n, d]; of any length.
        z2: Projections of the second view, [n, d]; row i is the positive of row i of z1.
        temperature: tau > 0, a number or a traced scalar.
        axis_name: Mapped axis that the batch is split over; None on one device. Differentiate
            the returned share itself, then average the gradients over the axis (``pmean``).

    Returns:
        Scalar, at least float32.

    Raises:
        UserError: Shapes differ, or a temperature known beforehand is not positive.
    """
    return loss_from(contrast(z1, z2, temperature=temperature, axis_name=axis_name))


def contrast(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
) -> Contrast:
    """What the loss and its metrics are read from; arguments as for ``nt_xent``."""
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise UserError(f"views have shapes {z1.shape} and {z2.shape}; give two equal [n, d]")
    if isinstance(temperature, int | float) and not temperature > 0:
        raise UserError(f"temperature is {temperature}; give a positive number, such as 0.1")
    return two_view_contrast(z1, z2, temperature=temperature, axis_name=axis_name)


def loss_from(seen: Contrast) -> jax.Array:
    """Mean over this device's anchors of -log softmax at the positive."""
    return jnp.mean(seen.log_sum_exp - seen.positive)


def accuracy_from(seen: Contrast) -> jax.Array:
    """Share of this device's anchors that are nearer to their positive than to any negative."""
    return jnp.mean(seen.positive > seen.hardest_negative)


def chance_level(batch_size: int) -> float:
    """Loss of an encoder that cannot tell examples apart: ln(2N - 1) for a global batch N."""
    return math.log(2 * batch_size - 1)
