"""Assignments of a batch to prototypes in equal parts, and the loss of SwAV that predicts them."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.similarity import check_positive, gather


def sinkhorn(
    scores: jax.Array, *, epsilon: float = 0.05, iterations: int = 3, axis_name: str | None = None
) -> jax.Array:
    """Soft assignments to prototypes that are used equally by the global batch (Sinkhorn-Knopp).

    exp(scores / epsilon) is scaled in turn so that every prototype has the same total weight over
    the batch, and every row the sum 1 (SwAV, arXiv 2006.09882, sec. 3.1). Logarithms are scaled
    here, because exp(1 / 0.05) overflows in 16 bits.

    Args:
        scores: Similarities of this device's rows to the prototypes, float [n, K].
        epsilon: Smoothness; towards 0 every row is assigned to one prototype.
        iterations: Number of pairs of scalings; the rows are scaled last.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Assignments of this device's rows, [n, K], each with the sum 1; without gradient, float32 or
        wider.

    Example:
        >>> import jax.numpy as jnp
        >>> [float(weight) for weight in sinkhorn(jnp.zeros((4, 2)))[0]]
        [0.5, 0.5]
    """
    check_positive(epsilon=epsilon, iterations=iterations)
    scores = lax.stop_gradient(scores)
    logits = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / epsilon

    def scale(_: int, logits: jax.Array) -> jax.Array:
        own = jax.nn.logsumexp(logits, axis=0, keepdims=True)
        logits = logits - jax.nn.logsumexp(gather(own, axis_name), axis=0, keepdims=True)
        return logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)

    return jnp.exp(lax.fori_loop(0, iterations, scale, logits))


def swapped_prediction(
    scores: jax.Array,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    axis_name: str | None = None,
) -> jax.Array:
    """Cross entropy of each view's prediction and the other view's assignment (SwAV, eq. 2).

    The mean of both directions and of the rows of this device; ln K where predictions are uniform.

    Args:
        scores: Cosines of both views to the prototypes, rows of this device, float [n, 2, K].
        temperature: Positive divisor of the scores in the predictions.
        epsilon: Smoothness of the assignments, see ``sinkhorn``.
        iterations: Number of pairs of scalings, see ``sinkhorn``.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, the local loss, float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = swapped_prediction(jnp.zeros((4, 2, 3)))
        >>> round(float(loss), 4)  # three equal prototypes: ln 3
        1.0986
    """
    check_positive(temperature=temperature)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    assignments = [
        sinkhorn(scores[:, view], epsilon=epsilon, iterations=iterations, axis_name=axis_name)
        for view in (1, 0)
    ]
    predictions = jax.nn.log_softmax(scores / temperature, axis=-1)
    return -jnp.mean(jnp.sum(jnp.stack(assignments, axis=1) * predictions, axis=-1))
