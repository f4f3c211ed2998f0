"""InfoNCE of CPC: predictions of the next steps of a series, contrasted with other series."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.online_softmax import LOWEST
from cssl_jax.losses.core.similarity import first_row, gather


class PredictiveTerms(NamedTuple):
    """Loss of this device's series and its metrics, float scalars.

    Attributes:
        loss: Mean over the predictions of -log softmax at the true step.
        chance_level: Loss of identical rows: mean logarithm of the number of candidates.
        accuracy: Fraction of predictions that are nearer to the true step than to all negatives.
    """

    loss: jax.Array
    chance_level: jax.Array
    accuracy: jax.Array


def predictive_contrast(
    predictions: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    *,
    same_series: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE of CPC over several future steps (arXiv 1807.03748, eqs. 3 and 4).

    Prediction k at step t selects the target at step t + k of its series among those at step t + k
    of all series of the global batch. Similarities are dot products of rows of any norm, without a
    temperature. The result is the mean over all series, t and k with t + k < length.

    Args:
        predictions: W_k c_t, float [n, K, T, d], rows of this device; k runs from 1 to K.
        targets: z_t, float [n, T, d].
        lengths: Number of steps of each series, int [n]; later steps have no influence.
        same_series: True to add the other steps of the same series to the negatives.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, the local loss, float32 or wider; 0 if no series is longer than one step. The mean
        of the local losses over the axis is the loss of the global batch.

    Example:
        >>> import jax.numpy as jnp
        >>> predictions, targets = jnp.zeros((2, 1, 3, 4)), jnp.zeros((2, 3, 4))
        >>> loss = predictive_contrast(predictions, targets, jnp.array([3, 3]))
        >>> round(float(loss), 4)  # one negative without any difference: ln 2
        0.6931
    """
    terms = predictive_terms(
        predictions, targets, lengths, same_series=same_series, axis_name=axis_name
    )
    return terms.loss


def predictive_terms(
    predictions: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    *,
    same_series: bool = False,
    axis_name: str | None = None,
) -> PredictiveTerms:
    """Loss of ``predictive_contrast`` and its metrics; same arguments."""
    chex.assert_rank([predictions, targets], [4, 3])
    n, count, steps, width = predictions.shape
    chex.assert_shape(targets, (n, steps, width))
    chex.assert_shape(lengths, (n,))
    dtype = jnp.promote_types(jnp.promote_types(predictions.dtype, targets.dtype), jnp.float32)
    mask = jnp.arange(steps) < lengths[:, None]
    predictions = jnp.where(mask[:, None, :, None], predictions.astype(dtype), 0)
    targets = jnp.where(mask[..., None], targets.astype(dtype), 0)
    everyone = gather(targets, axis_name), gather(mask, axis_name)
    own = first_row(n, axis_name) + jnp.arange(n)
    sums = jnp.zeros(4, dtype)
    for k in range(1, min(count, steps - 1) + 1):
        sums += _sums(predictions[:, k - 1], targets, mask, everyone, own, k, same_series)
    # A count: without this its derivative would be summed over the devices as well.
    total, devices = lax.stop_gradient(sums[3]), 1
    if axis_name is not None:
        total, devices = lax.psum(total, axis_name), lax.axis_size(axis_name)
    # The mean over devices of these fractions is the mean over all predictions.
    loss, chance, near = sums[:3] * devices / jnp.maximum(total, 1)
    return PredictiveTerms(loss=loss, chance_level=chance, accuracy=near)


def _sums(
    predictions: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    everyone: tuple[jax.Array, jax.Array],
    own: jax.Array,
    k: int,
    same_series: bool,
) -> jax.Array:
    """Sums over the predictions k steps ahead: loss, chance level, nearest ones, their number."""
    steps, dtype = targets.shape[1], targets.dtype
    ahead = predictions[:, : steps - k]
    all_targets, all_mask = everyone[0][:, k:], everyone[1][:, k:]
    positive = jnp.einsum("itd,itd->it", ahead, targets[:, k:], precision=lax.Precision.HIGHEST)
    logits = jnp.einsum("itd,jtd->itj", ahead, all_targets, precision=lax.Precision.HIGHEST)
    is_own = (own[:, None] == jnp.arange(len(all_targets)))[:, None]  # [n, 1, N]
    negative = all_mask.T[None] & ~is_own  # [n, T - k, N]
    if same_series:
        others = jnp.einsum("itd,isd->its", ahead, targets, precision=lax.Precision.HIGHEST)
        true_step = jnp.eye(steps, dtype=bool)[k:]  # [T - k, T]
        logits = jnp.concatenate([logits, others], axis=2)
        negative = jnp.concatenate([negative, mask[:, None] & ~true_step], axis=2)
    # A finite number: -inf in all candidates of a step at padding would give NaN gradients.
    logits = jnp.where(negative, logits, LOWEST)
    hardest = lax.stop_gradient(logits.max(axis=2))
    loss = jnp.logaddexp(positive, jax.nn.logsumexp(logits, axis=2)) - positive
    chance = jnp.log(1 + jnp.sum(negative, axis=2).astype(dtype))
    valid = mask[:, k:]
    values = (loss, chance, positive > hardest, jnp.ones_like(loss))
    return jnp.stack([jnp.sum(jnp.where(valid, value, 0)) for value in values]).astype(dtype)
