"""Contrastive self-supervised learning in JAX: trains and evaluates encoders on unlabelled images.

Names are imported when they are first used, so that importing the package starts no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cssl_jax.version import __version__

if TYPE_CHECKING:
    from cssl_jax.augment.image.policy import ImagePolicy
    from cssl_jax.config import Config
    from cssl_jax.errors import RunError, UserError
    from cssl_jax.evaluate.load import load_encoder
    from cssl_jax.evaluate.run import evaluate_run
    from cssl_jax.experiment.input_profile import bench_input
    from cssl_jax.recipes import load as load_recipe
    from cssl_jax.registries import trusting_code
    from cssl_jax.report.views import draw_views, load_views
    from cssl_jax.train.pretrain import pretrain
    from cssl_jax.transfer.adapt.run import adapt
    from cssl_jax.transfer.finetune import finetune, finetune_config

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
    "trusting_code",
]

_LOCATIONS = {
    "Config": ("cssl_jax.config", "Config"),
    "ImagePolicy": ("cssl_jax.augment.image.policy", "ImagePolicy"),
    "RunError": ("cssl_jax.errors", "RunError"),
    "UserError": ("cssl_jax.errors", "UserError"),
    "adapt": ("cssl_jax.transfer.adapt.run", "adapt"),
    "bench_input": ("cssl_jax.experiment.input_profile", "bench_input"),
    "draw_views": ("cssl_jax.report.views", "draw_views"),
    "evaluate_run": ("cssl_jax.evaluate.run", "evaluate_run"),
    "finetune": ("cssl_jax.transfer.finetune", "finetune"),
    "finetune_config": ("cssl_jax.transfer.finetune", "finetune_config"),
    "load_encoder": ("cssl_jax.evaluate.load", "load_encoder"),
    "load_recipe": ("cssl_jax.recipes", "load"),
    "load_views": ("cssl_jax.report.views", "load_views"),
    "pretrain": ("cssl_jax.train.pretrain", "pretrain"),
    "trusting_code": ("cssl_jax.registries", "trusting_code"),
}


_SUBMODULES = (
    *("augment", "checkpoint", "config", "configs", "data", "evaluate", "experiment", "interop"),
    *("losses", "methods", "models", "optim", "planning", "recipes", "report", "runtime"),
    *("selfcheck", "step", "sweeps", "train", "transfer"),
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"cssl_jax.{name}")
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'cssl_jax' has no attribute {name!r}")
    module, attribute = _LOCATIONS[name]
    return getattr(importlib.import_module(module), attribute)
