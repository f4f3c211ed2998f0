"""Deep CORAL (Sun & Saenko 2016, arXiv 1607.01719): equal covariances of source and target."""

import dataclasses
from typing import Any, Literal

import jax

from cssl_jax.config import Config
from cssl_jax.losses.coral import coral
from cssl_jax.methods.base import Context, PyTree
from cssl_jax.methods.entry import Modules
from cssl_jax.methods.supervised.adaptation import Adaptation, adaptation_entry
from cssl_jax.methods.supervised.classifier import classifier_fields, logits_of


@dataclasses.dataclass(frozen=True)
class DeepCORAL(Adaptation):
    """Adds ``weight`` times the CORAL loss of the global batch (eq. 6 with one layer).

    Attributes:
        layer: Whose covariances: of the classifier's "logits", as the paper does, or of its input,
            "features".
    """

    layer: Literal["logits", "features"] = "logits"

    def alignment(
        self, params: PyTree, features: jax.Array, ctx: Context
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Weighted CORAL loss of features [n, 2, D], or of their logits; metric "coral"."""
        x = logits_of(params, features) if self.layer == "logits" else features
        distance = coral(x[:, 0], x[:, 1], axis_name=ctx.axis_name)
        return self.weight * distance, {"coral": distance}


def _build(config: Config, modules: Modules) -> DeepCORAL:
    options = config.adapt
    return DeepCORAL(
        **classifier_fields(config, modules), weight=options.coral_weight, layer=options.coral_layer
    )


ENTRY = adaptation_entry(_build)
