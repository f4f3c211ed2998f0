"""Metrics of LARS trust ratios per step, computed separately from the update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.config import OptimizerConfig
from cssl_jax.optim.exclusions import is_norm_or_bias
from cssl_jax.optim.registry import optimizer_entry
from cssl_jax.optim.schedules import cosine_between
from cssl_jax.optim.trust_ratio import trust_ratios

PyTree = Any
TrustMetrics = Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]


def weight_decay(options: OptimizerConfig, total_steps: int) -> float | optax.Schedule:
    """Weight decay of a run: a number, or a function of the step."""
    if options.weight_decay_end is None:
        return options.weight_decay
    return cosine_between(options.weight_decay, options.weight_decay_end, total_steps)


def make_trust_ratio_metrics(options: OptimizerConfig, total_steps: int) -> TrustMetrics | None:
    """Builds ``(gradient, params, step) -> metrics``; None for optimizers without trust ratios.

    The metrics are trust_ratio_min, trust_ratio_median and trust_ratio_max over the adapted
    tensors. The trust ratio is eta |w| / (|u| + eps), u = gradient + lambda w (You et al. 2017),
    as ``optimizers.make_optimizer`` applies it before ``trust_clip``. It is 1 where a norm is 0.
    """
    if not optimizer_entry(options.name).trust_ratios:
        return None

    decay = weight_decay(options, total_steps)

    def metrics(grads: PyTree, params: PyTree, step: jax.Array) -> dict[str, jax.Array]:
        # LARS sees the clipped gradient, so its metrics use the clipped gradient as well.
        if options.clip_norm is not None:
            clip = optax.clip_by_global_norm(options.clip_norm)
            grads, _ = clip.update(grads, clip.init(params))
        adapted, updates = [], []
        leaves = jax.tree_util.tree_leaves_with_path(params)
        for (path, w), g in zip(leaves, jax.tree.leaves(grads), strict=True):
            if options.exclude_norm_and_bias and is_norm_or_bias(path, w):
                continue
            wide = jnp.promote_types(w.dtype, jnp.float32)
            w, g = w.astype(wide), g.astype(wide)
            adapted.append(w)
            updates.append(g + (decay(step) if callable(decay) else decay) * w)
        if not adapted:
            return {}
        ratios = trust_ratios(adapted, updates, options.trust_coefficient, options.trust_eps)
        return {
            "trust_ratio_min": jnp.min(ratios),
            "trust_ratio_median": jnp.median(ratios),
            "trust_ratio_max": jnp.max(ratios),
        }

    return metrics
