"""How LARS scales its tensors at a step: figures for the log, apart from the update itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.config import OptimizerConfig
from cssl_jax.optim.optimizers import is_norm_or_bias, trust_ratio

PyTree = Any
Figures = Callable[[PyTree, PyTree], dict[str, jax.Array]]


def trust_figures(options: OptimizerConfig) -> Figures | None:
    """Builds ``(gradient, params) -> figures`` for LARS; None for any other optimizer.

    Figures are trust_ratio_min, _median and _max over the adapted tensors, of eta |w| / (|u| + eps)
    with u = gradient + lambda w (You et al. 2017), as ``optimizers.make_optimizer`` applies it
    (before ``trust_clip``); 1 where a norm is 0.
    """
    if options.name != "lars":
        return None

    def figures(grads: PyTree, params: PyTree) -> dict[str, jax.Array]:
        if options.clip_norm is not None:
            clip = optax.clip_by_global_norm(options.clip_norm)
            grads, _ = clip.update(grads, clip.init(params))
        ratios = []
        leaves = jax.tree_util.tree_leaves_with_path(params)
        for (path, w), g in zip(leaves, jax.tree.leaves(grads), strict=True):
            if options.exclude_norm_and_bias and is_norm_or_bias(path, w):
                continue
            wide = jnp.promote_types(w.dtype, jnp.float32)
            w, g = w.astype(wide), g.astype(wide)
            u = g + options.weight_decay * w
            ratios.append(trust_ratio(w, u, options.trust_coefficient, options.trust_eps))
        if not ratios:
            return {}
        stacked = jnp.stack(ratios)
        return {
            "trust_ratio_min": jnp.min(stacked),
            "trust_ratio_median": jnp.median(stacked),
            "trust_ratio_max": jnp.max(stacked),
        }

    return figures
