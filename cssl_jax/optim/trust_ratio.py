"""LARS trust ratios: the scale of each tensor's update (You et al. 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.optim.norms import leaf_norms, scale_leaves
from cssl_jax.optim.step_counter import by_step

PyTree = Any


def trust_ratios(
    params: PyTree, updates: PyTree, trust_coefficient: float, eps: float = 0.0
) -> jax.Array:
    """Return the LARS trust ratio of every tensor, float [leaves].

    It is η ‖w‖ / (‖u‖ + ε) for a tensor w with update u, and 1 if a norm is 0.
    """
    weight_norm, update_norm = leaf_norms(params), leaf_norms(updates)
    adapted = (weight_norm > 0) & (update_norm > 0)
    return jnp.where(adapted, trust_coefficient * weight_norm / (update_norm + eps), 1)


def adapted_by_trust_ratio(
    trust_coefficient: float, eps: float = 0.0
) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor's update by its trust ratio."""
    return optax.stateless(
        lambda updates, params: scale_leaves(
            updates, trust_ratios(params, updates, trust_coefficient, eps)
        )
    )


def clipped_trust_ratio(
    schedule: optax.Schedule, trust_coefficient: float, eps: float = 0.0
) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor's update u by min(η ‖w‖ / ((‖u‖ + ε) lr), 1).

    The scale is 1 where a norm or lr is 0. This is ``clip_lars_lr`` of solo-learn's LARS, named
    ``clip_lr`` in its configs. After multiplication by lr, a tensor moves at the rate
    min(η ‖w‖ / (‖u‖ + ε), lr).
    """

    def adapt(updates: PyTree, params: PyTree, step: jax.Array) -> PyTree:
        rate = schedule(step)
        weight_norm, update_norm = leaf_norms(params), leaf_norms(updates)
        adapted = (weight_norm > 0) & (update_norm > 0) & (rate > 0)
        ratio = trust_coefficient * weight_norm / jnp.where(adapted, (update_norm + eps) * rate, 1)
        return scale_leaves(updates, jnp.where(adapted, jnp.minimum(ratio, 1), 1))

    return by_step(adapt)
