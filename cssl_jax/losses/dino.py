"""The loss of DINO: every view predicts the teacher's distribution of the other global views."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.similarity import check_positive
from cssl_jax.losses.core.view_pairs import mean_cross_entropy
from cssl_jax.losses.swav import sinkhorn

SINKHORN_ITERATIONS = 3


def self_distillation(
    scores: jax.Array,
    targets: jax.Array,
    centre: jax.Array | None,
    *,
    temperature: float = 0.1,
    target_temperature: float | jax.Array = 0.04,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross entropy of the student's views and the teacher's other views (DINO, eq. 3).

    The first T views of the student are those of the teacher. The mean is over the T (V - 1) pairs
    of different views, and over the rows of this device (arXiv 2104.14294, sec. 3.1).

    Args:
        scores: Scores of the student's views for K prototypes, float [n, V, K].
        targets: Scores of the teacher's views, float [n, T, K], T at most V; without gradient.
        centre: Running mean of the teacher's scores, which is subtracted from them, float [K]; None
            divides the prototypes evenly among the teacher's views of the global batch instead, by
            ``sinkhorn`` with three iterations, as DINOv2 does (arXiv 2304.07193, sec. 4).
        temperature: Positive divisor of the student's scores.
        target_temperature: Positive divisor of the teacher's scores, a number or a float scalar.
        axis_name: Mapped axis that the batch is split over; None on a single device. With a centre
            only the metrics depend on it.

    Returns:
        (local loss, metrics), scalars, float32 or wider. "target_entropy" is the mean entropy of
        the teacher's distributions: ln K where they are uniform, 0 where each is one prototype.
        "target_information" is what a distribution says about its image, in nats: the entropy of
        the mean over the global batch without "target_entropy". It is 0 if all images have the same
        distribution, which is the collapse of this method.

    Example:
        >>> import jax.numpy as jnp
        >>> scores = jnp.zeros((4, 2, 3))
        >>> loss, metrics = self_distillation(scores, scores, jnp.zeros(3))
        >>> [round(float(x), 4) for x in (loss, metrics["target_entropy"])]  # ln 3
        [1.0986, 1.0986]
    """
    check_positive(temperature=temperature)
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    targets = lax.stop_gradient(targets.astype(dtype))
    if centre is None:
        rows = targets.reshape(-1, targets.shape[-1])
        even = sinkhorn(
            rows,
            epsilon=target_temperature,
            iterations=SINKHORN_ITERATIONS,
            axis_name=axis_name,
        )
        target = even.reshape(targets.shape)
    else:
        centred = targets - lax.stop_gradient(centre)
        target = jax.nn.softmax(centred / target_temperature, axis=-1)
    predictions = jax.nn.log_softmax(scores.astype(dtype) / temperature, axis=-1)
    loss = mean_cross_entropy(target, predictions)
    mean = jnp.mean(target, axis=(0, 1))
    mean = mean if axis_name is None else lax.pmean(mean, axis_name)
    entropy = jnp.mean(jnp.sum(jax.scipy.special.entr(target), axis=-1))
    of_mean = jnp.sum(jax.scipy.special.entr(mean))
    return loss, {"target_entropy": entropy, "target_information": of_mean - entropy}
