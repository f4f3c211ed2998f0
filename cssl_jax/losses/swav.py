"""Assignments of a batch to prototypes in equal parts, and the loss of SwAV that predicts them."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.similarity import check_positive, gather
from cssl_jax.losses.core.view_pairs import mean_cross_entropy

ASSIGNED = 2  # views whose assignments are predicted: the first two, at full size


def sinkhorn(
    scores: jax.Array,
    *,
    epsilon: float | jax.Array = 0.05,
    iterations: int = 3,
    axis_name: str | None = None,
    queue: jax.Array | None = None,
    queue_counts: bool | jax.Array = True,
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
        queue: Similarities of further rows, the same on all devices, which take their parts of the
            prototypes as the batch does, float [Q, K]; None: there are none.
        queue_counts: False leaves the queue out.

    Returns:
        Assignments of this device's rows, [n, K], each with the sum 1; without gradient, float32 or
        wider.

    Example:
        >>> import jax.numpy as jnp
        >>> [float(weight) for weight in sinkhorn(jnp.zeros((4, 2)))[0]]
        [0.5, 0.5]
    """
    check_positive(epsilon=epsilon, iterations=iterations)

    def logits_of(scores: jax.Array) -> jax.Array:
        scores = lax.stop_gradient(scores)
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / epsilon

    def columns(rows: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(rows, axis=0, keepdims=True)

    def scale(_: int, given: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        batch, *further = given
        sums = gather(columns(batch), axis_name)
        for rows in further:
            sums = jnp.concatenate([sums, jnp.where(queue_counts, columns(rows), -jnp.inf)])
        total = columns(sums)
        scaled = [rows - total for rows in given]
        return tuple(x - jax.nn.logsumexp(x, axis=1, keepdims=True) for x in scaled)

    given = (logits_of(scores),) if queue is None else (logits_of(scores), logits_of(queue))
    return jnp.exp(lax.fori_loop(0, iterations, scale, given)[0])


def swapped_prediction(
    scores: jax.Array,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    axis_name: str | None = None,
    queues: jax.Array | None = None,
    queue_counts: bool | jax.Array = True,
) -> jax.Array:
    """Cross entropy of each view's prediction and the assignments of the others (SwAV, eq. 2).

    The first two views are assigned, all views predict (sec. 3.2). The mean of all pairs of
    different views and of the rows of this device; ln K where predictions are uniform.

    Args:
        scores: Cosines of all views to the prototypes, rows of this device, float [n, V, K].
        temperature: Positive divisor of the scores in the predictions.
        epsilon: Smoothness of the assignments, see ``sinkhorn``.
        iterations: Number of pairs of scalings, see ``sinkhorn``.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        queues: Cosines of earlier rows of each assigned view, float [2, Q, K]; None: there are
            none.
        queue_counts: False leaves the queues out.

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
        sinkhorn(
            scores[:, view],
            epsilon=epsilon,
            iterations=iterations,
            axis_name=axis_name,
            queue=None if queues is None else queues[view],
            queue_counts=queue_counts,
        )
        for view in range(ASSIGNED)
    ]
    predictions = jax.nn.log_softmax(scores / temperature, axis=-1)
    return mean_cross_entropy(jnp.stack(assignments, axis=1), predictions)
