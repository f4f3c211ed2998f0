"""BYOL (arXiv 2006.07733): a predictor of the projections of a momentum copy."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import FRACTION, POSITIVE, Range
from cssl_jax.losses.cosine import negative_cosine, unit_std
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs
from cssl_jax.methods.core.momentum import Momentum, follow
from cssl_jax.methods.core.two_view_methods import Following
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOLConfig(MethodConfig):
    """BYOL: each view's prediction is to point to the other view's projection by a momentum copy.

    Attributes:
        predictor_hidden: Width of the predictor's hidden layer.
        momentum: Fraction of the copy that survives the first update.
        momentum_end: Fraction of the copy that survives the last update; half a cosine leads there.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "predictor_hidden": POSITIVE,
        "momentum": FRACTION,
        "momentum_end": FRACTION,
    }

    name: str = "byol"
    predictor_hidden: int = 4096
    momentum: float = 0.99
    momentum_end: float = 1.0


@dataclasses.dataclass(frozen=True)
class BYOL(Following):
    """The objective of BYOL: sum of both directions of 2 - 2 cos (eq. 2), within [0, 8].

    The copy follows after each update with the momentum of the step, as in the authors' code. It
    starts with the weights of the trained encoder and projector. In the authors' code it starts
    with other random weights, which according to a comment there makes no difference. The loss is a
    mean over examples.
    """

    separable = True

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples; "projection_std" is 0 where projections collapse."""
        p, z = outputs["predictions"], examples["targets"]
        cosines = negative_cosine(p[:, 0], z[:, 1]) + negative_cosine(p[:, 1], z[:, 0])
        loss = 4 + 2 * cosines
        spread = unit_std(outputs["projections"][:, 0], ctx.axis_name)
        return loss, {"loss": loss, "projection_std": spread}, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The copy after it has followed the updated parameters."""
        rate = self.momentum.rate(ctx.step, ctx.total_steps)
        return follow(method_state, params, step.target_state, rate)


def _build(config: Config, modules: Modules) -> BYOL:
    options = options_of(config, BYOLConfig)
    predictor = modules.head(layers=2, hidden=options.predictor_hidden, norm=True, last="none")
    return BYOL(
        modules.encoder,
        modules.head(last="none"),
        predictor,
        Momentum(options.momentum, options.momentum_end),
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: 4.0,  # predictions that are orthogonal to their targets
    config=BYOLConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 2,
        "projector_hidden": 4096,
        "projector_dim": 256,
        "projector_norm": True,
    },
    cost=lambda config: StepCost(targets=2, contrasts=False),
)
