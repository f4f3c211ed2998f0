"""The rows of an adaptation, and the training behind each."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cssl_jax.config import AdaptConfig, Config
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.runtime import process
from cssl_jax.transfer.adapt.domains import Domains

METHODS = ("bn", "coral", "dann")
ROWS = {
    "source": "source only",
    "bn": "target's BatchNorm statistics",
    "coral": "Deep CORAL",
    "dann": "DANN",
    "target": "target-supervised",
    "random": "source only, from random weights",
    "pixels": "source only, on raw pixels",
}


def trainings(config: Config, methods: Sequence[str], domains: Domains) -> dict[str, Config]:
    """Row -> what to train, the source-only one first; rows without a training have no entry.

    Args:
        config: Of all of them, from ``Domains.resolved``.
        methods: Of ``METHODS``.
        domains: The images; "target" is a row only where it has labels of both kinds, to train on
            and to report on.
    """
    alone = AdaptConfig()  # what a training does not look at is no part of it
    found = {"source": _named(config, "classifier", alone)}
    found |= {method: _named(config, method, config.adapt) for method in methods if method != "bn"}
    if domains.target_labels and "target" in domains.held_out():
        whole = dataclasses.replace(config.classifier, label_fraction=1.0)
        found["target"] = _named(
            dataclasses.replace(
                builders.target_config(config, domains.target_classes), classifier=whole
            ),
            "classifier",
            alone,
            batch_size=min(config.train.batch_size, domains.target_labels),
        )
    found["random"] = _named(config, "classifier", alone, init="")
    return found


def check_batches(trainings: dict[str, Config]) -> None:
    """Raises UserError where a batch does not divide over the devices, before any is trained."""
    for row, config in trainings.items():
        size, devices = config.train.batch_size, process.make_mesh(config.runtime.devices).size
        if size % devices:
            lower = size // devices * devices
            way_out = f"--train.batch-size {lower}" if lower else f"--runtime.devices {size}"
            raise UserError(
                f"row {ROWS[row]!r}: a batch of {size}, which its images allow, does not divide "
                f"over {devices} devices; give {way_out}"
            )


def _named(config: Config, method: Any, adapt: AdaptConfig, **train: Any) -> Config:
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, name=method),
        adapt=adapt,
        train=dataclasses.replace(config.train, **train),
    )
