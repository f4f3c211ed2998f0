"""LARS trust ratios: the scale of each tensor's update (You et al. 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.optim.norms import square_sum
from cssl_jax.optim.step_counter import by_step

PyTree = Any


def trust_ratio(
    w: jax.Array, u: jax.Array, trust_coefficient: float, eps: float = 0.0
) -> jax.Array:
    """Return the LARS trust ratio η ‖w‖ / (‖u‖ + ε) of tensor w with update u; 1 if a norm is 0."""
    weight_norm, update_norm = jnp.sqrt(square_sum(w)), jnp.sqrt(square_sum(u))
    adapted = (weight_norm > 0) & (update_norm > 0)
    return jnp.where(adapted, trust_coefficient * weight_norm / (update_norm + eps), 1)


def adapted_by_trust_ratio(
    trust_coefficient: float, eps: float = 0.0
) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor's update by its ``trust_ratio``."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, w: u * trust_ratio(w, u, trust_coefficient, eps), updates, params
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

        def scale(u: jax.Array, w: jax.Array) -> jax.Array:
            weight_norm, update_norm = jnp.sqrt(square_sum(w)), jnp.sqrt(square_sum(u))
            adapted = (weight_norm > 0) & (update_norm > 0) & (rate > 0)
            ratio = (
                trust_coefficient * weight_norm / jnp.where(adapted, (update_norm + eps) * rate, 1)
            )
            return u * jnp.where(adapted, jnp.minimum(ratio, 1), 1)

        return jax.tree.map(scale, updates, params)

    return by_step(adapt)
