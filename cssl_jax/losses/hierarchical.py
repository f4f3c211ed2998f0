"""Hierarchical contrastive loss of TS2Vec: features of steps, contrasted at several time scales."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.losses.core.online_softmax import LOWEST
from cssl_jax.losses.core.similarity import first_row, gather


class HierarchicalTerms(NamedTuple):
    """Loss of this device's series and what it consists of, float scalars.

    Attributes:
        loss: ``instance_weight`` times ``instance`` plus the rest times ``temporal``.
        instance: Mean over the levels of the contrast with other series at the same step.
        temporal: Mean over the levels of the contrast with other steps of the same series.
        chance_level: Loss of identical features. It depends on the lengths.
        accuracy: Fraction of steps that are nearer to their positive than to all other series, at
            the finest level.
    """

    loss: jax.Array
    instance: jax.Array
    temporal: jax.Array
    chance_level: jax.Array
    accuracy: jax.Array


def hierarchical_contrast(
    z1: jax.Array,
    z2: jax.Array,
    lengths: jax.Array,
    *,
    instance_weight: float = 0.5,
    axis_name: str | None = None,
) -> jax.Array:
    """Hierarchical contrastive loss of TS2Vec (arXiv 2106.10466, eqs. 1 to 3 and Alg. 1).

    At every level, a step of one view has the same step of the other view as its positive. The
    instance loss contrasts it with both views of all other series at that step, the temporal loss
    with both views of all other steps of the same series. Similarities are dot products of rows of
    any norm, without a temperature. The next level has the maximum over pairs of steps; a last step
    without a partner is dropped, as in the authors' code. The result is the mean over the levels,
    down to that of one step, of both losses, each the mean over all steps that count.

    A series has length // 2^l steps at level l. A series that is too short for a level is
    absent there. Padding has no influence and receives no gradient. The temporal loss holds
    [n, 2T, 2T] similarities, the instance loss [T, 2n, 2N].

    Args:
        z1: Features of the steps in the first view, float [n, T, d], rows of this device.
        z2: Features of the same steps in the second view, float [n, T, d].
        lengths: Number of steps of each series, int [n], from 0 to T.
        instance_weight: Weight alpha of the instance loss, in [0, 1]; 1 - alpha is that of the
            temporal loss.
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        Scalar, the local loss, float32 or wider. The mean of the local losses over the axis is the
        loss of the global batch, also if the devices hold different numbers of steps.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.zeros((2, 1, 4))  # two series of one step: half of ln 3, the instance loss
        >>> round(float(hierarchical_contrast(z, z, jnp.array([1, 1]))), 4)
        0.5493
    """
    terms = hierarchical_terms(
        z1, z2, lengths, instance_weight=instance_weight, axis_name=axis_name
    )
    return terms.loss


def hierarchical_terms(
    z1: jax.Array,
    z2: jax.Array,
    lengths: jax.Array,
    *,
    instance_weight: float = 0.5,
    axis_name: str | None = None,
) -> HierarchicalTerms:
    """Loss of ``hierarchical_contrast`` and its parts; same arguments."""
    chex.assert_rank(z1, 3)
    chex.assert_equal_shape([z1, z2])
    chex.assert_shape(lengths, (len(z1),))
    z = jnp.stack([z1, z2], axis=1)
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    z = jnp.where((jnp.arange(z.shape[2]) < lengths[:, None])[:, None, :, None], z, 0)
    own = first_row(len(z), axis_name) + jnp.arange(len(z))
    sums, accuracy = [], jnp.zeros((), z.dtype)
    while z.shape[2] > 0:
        mask = jnp.arange(z.shape[2]) < lengths[:, None]
        total = _total(mask, axis_name)
        # The mean over devices of these sums is the mean over all steps that count.
        scale = _devices(axis_name) / jnp.maximum(total, 1).astype(z.dtype)
        instance, instance_chance, near = _instance(z, mask, own, axis_name)
        temporal, temporal_chance = _temporal(z, mask)
        level = (instance, temporal, instance_chance, temporal_chance)
        sums.append([jnp.sum(jnp.where(mask, value, 0)) * scale for value in level])
        sums[-1].append((total > 0).astype(z.dtype))  # 0 where no series reaches this level
        if len(sums) == 1:
            accuracy = jnp.sum(jnp.where(mask, near, 0)) * scale
        z, lengths = _pooled(z), lengths // 2
    *parts, levels = (sum(column) for column in zip(*sums, strict=True))
    count = jnp.maximum(levels, 1)
    instance, temporal, instance_chance, temporal_chance = (part / count for part in parts)
    rest = 1 - instance_weight
    return HierarchicalTerms(
        loss=instance_weight * instance + rest * temporal,
        instance=instance,
        temporal=temporal,
        chance_level=instance_weight * instance_chance + rest * temporal_chance,
        accuracy=accuracy,
    )


def _total(mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Number of steps that count in the global batch."""
    total = jnp.sum(mask)
    return total if axis_name is None else lax.psum(total, axis_name)


def _devices(axis_name: str | None) -> int:
    return 1 if axis_name is None else lax.axis_size(axis_name)


def _pooled(z: jax.Array) -> jax.Array:
    """Maximum over pairs of steps, [n, 2, T, d] -> [n, 2, T // 2, d]."""
    n, views, steps, width = z.shape
    return z[:, :, : steps // 2 * 2].reshape(n, views, steps // 2, 2, width).max(axis=3)


def _instance(
    z: jax.Array, mask: jax.Array, own: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Instance loss, its chance level and whether the positive is nearest, [n, T] each.

    Args:
        z: float [n, 2, T, d].
        mask: bool [n, T], True at steps that count.
        own: int [n], positions of the rows in the global batch.
        axis_name: Mapped axis that the batch is split over.
    """
    all_z, all_mask = gather(z, axis_name), gather(mask, axis_name)
    logits = jnp.einsum("ivtd,jwtd->tivjw", z, all_z, precision=lax.Precision.HIGHEST)
    same = own[:, None] == jnp.arange(len(all_z))  # [n, N]
    views = jnp.eye(2, dtype=bool)
    itself = same[:, None, :, None] & views[None, :, None, :]  # [n, 2, N, 2]
    allowed = all_mask.T[:, None, None, :, None] & ~itself[None]  # [T, n, 2, N, 2]
    loss, positive = _cross_entropy(z, logits, allowed)
    others = jnp.where(allowed & ~same[None, :, None, :, None], logits, LOWEST)
    near = jnp.mean(positive > lax.stop_gradient(others).max(axis=(3, 4)), axis=2)
    candidates = 2 * jnp.sum(all_mask, axis=0) - 1  # [T]
    chance = jnp.log(jnp.maximum(candidates, 1).astype(z.dtype))
    return loss, jnp.broadcast_to(chance, mask.shape), near.T


def _temporal(z: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Temporal loss and its chance level, [n, T] each; arguments as in ``_instance``."""
    logits = jnp.einsum("ivtd,iwsd->tivsw", z, z, precision=lax.Precision.HIGHEST)
    steps, views = jnp.eye(z.shape[2], dtype=bool), jnp.eye(2, dtype=bool)
    itself = steps[:, None, :, None] & views[None, :, None, :]  # [T, 2, T, 2]
    allowed = mask[None, :, None, :, None] & ~itself[:, None]  # [T, n, 2, T, 2]
    loss, _ = _cross_entropy(z, logits, allowed)
    candidates = 2 * jnp.sum(mask, axis=1) - 1  # [n]
    chance = jnp.log(jnp.maximum(candidates, 1).astype(z.dtype))
    return loss, jnp.broadcast_to(chance[:, None], mask.shape)


def _cross_entropy(
    z: jax.Array, logits: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(mean over the two views of -log softmax at the positive, [n, T]; positives [T, n, 1]).

    Args:
        z: float [n, 2, T, d].
        logits: float [T, n, 2, candidates, 2].
        allowed: bool, True at the candidates, of a shape that is broadcast to that of the logits.
    """
    # A finite number: a step at padding may have no candidate, and -inf would give NaN gradients.
    total = jax.nn.logsumexp(jnp.where(allowed, logits, LOWEST), axis=(3, 4))  # [T, n, 2]
    positive = jnp.einsum("itd,itd->ti", z[:, 0], z[:, 1], precision=lax.Precision.HIGHEST)
    return (total.mean(axis=2) - positive).T, lax.stop_gradient(positive)[..., None]
