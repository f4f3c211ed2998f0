"""What methods of domain adaptation share: a classifier that sees two domains, one with labels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.classifier import Classifier, logits_of

TARGET = "target"  # the group of views of the domain without labels; "main" is the other


@dataclasses.dataclass(frozen=True)
class Adaptation(Classifier):
    """Cross entropy of labelled source images, and what brings target images' features near them.

    An example is a pair, one image of either domain, which lie on one device. Both go through the
    encoder in one batch, whose BatchNorm statistics are of both: what is computed for an image at
    test time, whatever its domain, is what was trained. Labels are the source's alone.

    Attributes:
        weight: Of ``alignment`` in the loss.
    """

    weight: float = 1.0

    @property
    def views(self) -> dict[str, int]:
        """One image of each domain."""
        return {"main": 1, TARGET: 1}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """{"logits" [n, C] of source images, "features" [n, 2, D] of source and target images}."""
        train = ctx.train and not ctx.frozen_norm and self.stages == "all"
        pairs = jnp.concatenate([batch["views"]["main"], batch["views"][TARGET]], axis=1)
        # A pair's images together, as BatchNorm groups need them.
        flat = pairs.reshape(-1, *pairs.shape[2:])
        x, state = self._represent(params, model_state, flat, train)
        features = x.reshape(*pairs.shape[:2], -1)
        kept = self._dropped(features[:, 0], batch, ctx)
        return {"logits": logits_of(params, kept), "features": features}, state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross entropy of the source images and the alignment, times its weight."""
        entropy, metrics = super().objective(params, method_state, outputs["logits"], examples, ctx)
        alignment, more = self.alignment(params, outputs["features"], ctx)
        loss = entropy + alignment
        return loss, {**metrics, **more, "cross_entropy": entropy, "loss": loss}

    def alignment(
        self, params: PyTree, features: jax.Array, ctx: Context
    ) -> tuple[jax.Array, dict[str, Any]]:
        """What is added to the loss for features [n, 2, D], with its weight; and metrics."""
        raise NotImplementedError
