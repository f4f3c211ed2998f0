"""Settings of an adaptation experiment, and the config of the training run of each setting."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import AdaptConfig, Config
from cssl_jax.errors import UserError
from cssl_jax.experiment import data_splits
from cssl_jax.runtime import process
from cssl_jax.transfer.adapt.domains import Domains
from cssl_jax.transfer.transfer_results import SETTINGS

METHODS = ("bn", "coral", "dann")


def training_configs(config: Config, methods: Sequence[str], domains: Domains) -> dict[str, Config]:
    """Setting -> config of its training run, with the source-only setting first.

    Settings without a training run of their own ("bn", baselines) have no entry.

    Args:
        config: Common config of all training runs, from ``Domains.resolved``.
        methods: Adaptation methods, a selection of ``METHODS``.
        domains: Images of both domains. The setting "target" requires labelled target images both
            for training and for evaluation.
    """
    # Settings that ignore the target get a default section, so that their configs do not depend on
    # it and finished runs can be reused.
    default_adapt = AdaptConfig()
    configs = {"source": _with_method(config, "classifier", default_adapt)}
    configs |= {
        method: _with_method(config, method, config.adapt) for method in methods if method != "bn"
    }
    if domains.target_labels and "target" in domains.held_out():
        target = data_splits.target_config(config, domains.target_classes)
        configs["target"] = _with_method(
            target.replace({"classifier.label_fraction": 1.0}),
            "classifier",
            default_adapt,
            batch_size=min(config.train.batch_size, domains.target_labels),
        )
    configs["random"] = _with_method(config, "classifier", default_adapt, init="")
    return configs


def check_batches(configs: dict[str, Config]) -> None:
    """Raises UserError if a batch size does not divide over the devices, before any training."""
    for row, config in configs.items():
        size, devices = config.train.batch_size, process.make_mesh(config.runtime.devices).size
        if size % devices:
            lower = size // devices * devices
            remedy = f"--train.batch-size {lower}" if lower else f"--runtime.devices {size}"
            raise UserError(
                f"setting {SETTINGS[row]!r}: batch size {size}, limited by the available images, "
                f"does not divide over {devices} devices; give {remedy}"
            )


def _with_method(config: Config, method: Any, adapt: AdaptConfig, **train: Any) -> Config:
    config = recipes.with_method(config, method)
    config = config.replace({f"train.{name}": value for name, value in train.items()})
    return dataclasses.replace(config, adapt=adapt)
