"""Contrastive self-supervised learning in JAX: unlabelled pictures in, a measured encoder out.

Names are imported when they are first used: importing the package touches no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cssl_jax.version import __version__

if TYPE_CHECKING:
    from cssl_jax.augment.policy import ImagePolicy
    from cssl_jax.config import Config
    from cssl_jax.errors import RunError, UserError
    from cssl_jax.evaluate.encoder import evaluate_run, load_encoder
    from cssl_jax.recipes import load as load_recipe
    from cssl_jax.train.adapt import adapt
    from cssl_jax.train.bench_input import bench_input
    from cssl_jax.train.finetune import finetune, finetune_config
    from cssl_jax.train.loop import pretrain
    from cssl_jax.train.views import draw_views, load_views

__all__ = [
    "Config",
    "ImagePolicy",
    "RunError",
    "UserError",
    "__version__",
    "adapt",
    "bench_input",
    "draw_views",
    "evaluate_run",
    "finetune",
    "finetune_config",
    "load_encoder",
    "load_recipe",
    "load_views",
    "pretrain",
]

_HOMES = {
    "Config": ("cssl_jax.config", "Config"),
    "ImagePolicy": ("cssl_jax.augment.policy", "ImagePolicy"),
    "RunError": ("cssl_jax.errors", "RunError"),
    "UserError": ("cssl_jax.errors", "UserError"),
    "adapt": ("cssl_jax.train.adapt", "adapt"),
    "bench_input": ("cssl_jax.train.bench_input", "bench_input"),
    "draw_views": ("cssl_jax.train.views", "draw_views"),
    "evaluate_run": ("cssl_jax.evaluate.encoder", "evaluate_run"),
    "finetune": ("cssl_jax.train.finetune", "finetune"),
    "finetune_config": ("cssl_jax.train.finetune", "finetune_config"),
    "load_encoder": ("cssl_jax.evaluate.encoder", "load_encoder"),
    "load_recipe": ("cssl_jax.recipes", "load"),
    "load_views": ("cssl_jax.train.views", "load_views"),
    "pretrain": ("cssl_jax.train.loop", "pretrain"),
}


_SUBMODULES = (
    *("augment", "config", "data", "distributed", "evaluate", "interop", "losses", "methods"),
    *("models", "recipes", "train"),
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"cssl_jax.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'cssl_jax' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
