"""The core that the losses share: unit length, the gather, and what each anchor sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Contrast(NamedTuple):
    """What the losses and their metrics are read from, one row an anchor.

    Attributes:
        log_sum_exp: [rows], over every candidate of the anchor, its positive included.
        positive: [rows], the positive's similarity over temperature.
        hardest_negative: [rows], the largest similarity over temperature among the others.
    """

    log_sum_exp: jax.Array
    positive: jax.Array
    hardest_negative: jax.Array


def unit_length(z: jax.Array) -> jax.Array:
    """Rows of z [..., d] scaled to length 1, in at least float32; a zero row stays zero.

    Rows are first divided by their largest magnitude, so that squares neither overflow nor vanish
    from 1e-30 to 1e30; the direction does not depend on that factor, so it needs no gradient.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    z = z / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Every device's rows, in the order of the axis: [n, ...] -> [N, ...]; differentiable."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def two_view_contrast(
    z1: jax.Array, z2: jax.Array, *, temperature: jax.Array | float, axis_name: str | None
) -> Contrast:
    """Contrasts each of this device's 2n rows with all other rows of the global batch.

    Args:
        z1: Projections of the first view, [n, d]; of any length.
        z2: Of the second view, [n, d]; row i shows the same example as row i of z1.
        temperature: Positive; divides the cosine similarity.
        axis_name: Mapped axis that the batch is split over, or None.

    Returns:
        Rows in the order (z1, z2), [2n] each; at least float32.
    """
    n = z1.shape[0]
    local = jnp.stack([unit_length(z1), unit_length(z2)])  # [2, n, d]
    everyone = jax.vmap(lambda z: gather(z, axis_name))(local) if axis_name else local
    total = everyone.shape[1]
    anchors, candidates = local.reshape(2 * n, -1), everyone.reshape(2 * total, -1)
    # HIGHEST: by default a float32 product is bfloat16 on TPU and TF32 on GPU.
    similarity = jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST)
    logits = similarity / temperature
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * n
    rows = first + jnp.arange(n)
    own = jnp.concatenate([rows, rows + total])[:, None]
    partner = jnp.concatenate([rows + total, rows])[:, None]
    column = jnp.arange(2 * total)[None, :]
    positive = jnp.take_along_axis(logits, partner, axis=1)[:, 0]
    others = jnp.where(column == own, -jnp.inf, logits)
    negatives = jnp.where(column == partner, -jnp.inf, jax.lax.stop_gradient(others))
    return Contrast(jax.nn.logsumexp(others, axis=1), positive, jnp.max(negatives, axis=1))
