"""Base of the domain-adaptation methods: a classifier on a labelled and an unlabelled domain."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.methods.base import Batch, Context, PyTree, flat_views, mask_keys
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost
from cssl_jax.methods.supervised.classifier import (
    Classifier,
    chance_level,
    check_classifier,
    logits_of,
)

TARGET = "target"  # group of views of the domain without labels; "main" is the labelled one


@dataclasses.dataclass(frozen=True)
class Adaptation(Classifier):
    """Cross entropy on labelled source images plus a loss that aligns the two domains' features.

    An example is a pair: one image from each domain, both on the same device. Both are encoded in
    one batch and share its BatchNorm statistics, so that an image of either domain is normalised at
    test time as in training. Only source images have labels.

    Attributes:
        weight: Factor of ``alignment`` in the loss.
    """

    weight: float = 1.0

    @property
    def views(self) -> dict[str, ViewGroup]:
        """One image of each domain."""
        return {"main": ViewGroup(1), TARGET: ViewGroup(1)}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """{"logits" [n, C] of source images, "features" [n, 2, D] of source and target images}."""
        train = ctx.train and not ctx.frozen_norm and self.stages == "all"
        pairs = jax.tree.map(
            lambda *domains: jnp.concatenate(domains, axis=1),
            batch["views"]["main"],
            batch["views"][TARGET],
        )
        n, k = jax.tree.leaves(pairs)[0].shape[:2]
        # A pair's images together, as BatchNorm groups need them.
        x, state = self._represent(
            params, model_state, flat_views(pairs), train, mask_keys(batch, k)
        )
        features = x.reshape(n, k, -1)
        kept = self._dropped(features[:, 0], batch, ctx)
        return {"logits": logits_of(params, kept), "features": features}, state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Mean cross entropy of the source images and the alignment, times its weight."""
        entropy, metrics, carry = super().objective(
            params, method_state, outputs["logits"], examples, ctx
        )
        alignment, more = self.alignment(params, outputs["features"], ctx)
        loss = entropy + alignment
        return loss, {**metrics, **more, "cross_entropy": entropy, "loss": loss}, carry

    def alignment(
        self, params: PyTree, features: jax.Array, ctx: Context
    ) -> tuple[jax.Array, dict[str, Any]]:
        """What is added to the loss for features [n, 2, D], with its weight; and metrics."""
        raise NotImplementedError


def adaptation_entry(build: Callable[[Config, Modules], Adaptation]) -> MethodEntry:
    """Registry entry of a domain-adaptation method."""
    return MethodEntry(
        build=build,
        chance_level=chance_level,
        check=check_adaptation,
        evaluation="classifier",
        labelled=lambda config: True,
        paired=True,
        cost=lambda config: StepCost(contrasts=False),
        sections=("classifier", "adapt"),
    )


def check_adaptation(config: Config) -> None:
    """Refuses options that do not fit a method of domain adaptation.

    Raises:
        UserError: The options of the classifier do not fit, there is no target, or nothing adapts.
    """
    check_classifier(config)
    if not config.adapt.target:
        raise UserError(
            f"method.name is {config.method.name!r} and adapt.target empty; give the images of the "
            "domain to adapt to"
        )
    if config.classifier.stages == 0:
        raise UserError(
            f"method.name is {config.method.name!r} and classifier.stages 0, which leaves the "
            "encoder as it is; give the number of stages that are to adapt, or 'all'"
        )
