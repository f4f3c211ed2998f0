"""VICReg (arXiv 2105.04906): invariance, variance and covariance of two views' projections."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import chex
import jax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import NOT_NEGATIVE, Range
from cssl_jax.losses.vicreg import chance_level as collapsed_loss
from cssl_jax.losses.vicreg import vicreg
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """VICReg: projections of two views that agree, vary over images, and have no redundant feature.

    Attributes:
        invariance: Weight of the mean squared difference of the two views.
        variance: Weight of the mean shortfall of each feature's standard deviation below 1. A
            variance weight of 25 in solo-learn is 50 here.
        covariance: Weight of the squared covariances between different features, divided by the
            width.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "invariance": NOT_NEGATIVE,
        "variance": NOT_NEGATIVE,
        "covariance": NOT_NEGATIVE,
    }

    name: str = "vicreg"
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


@dataclasses.dataclass(frozen=True)
class VICReg(TwoViews):
    """The objective of VICReg over the global batch.

    Attributes:
        invariance: Weight of the invariance term.
        variance: Weight of the variance term.
        covariance: Weight of the covariance term.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of the global batch; its terms before their weights, and "projection_std".

        The latter is the mean standard deviation of the features, counted up to 1: 0 if all
        projections are identical.
        """
        chex.assert_shape(outputs, (None, 2, None))
        loss, terms = vicreg(
            outputs[:, 0],
            outputs[:, 1],
            invariance=self.invariance,
            variance=self.variance,
            covariance=self.covariance,
            axis_name=ctx.axis_name,
        )
        return loss, {"loss": loss, **terms, "projection_std": 1 - terms["variance"]}, {}


def _build(config: Config, modules: Modules) -> VICReg:
    options = options_of(config, VICRegConfig)
    return VICReg(
        modules.encoder,
        modules.head(last="none"),
        options.invariance,
        options.variance,
        options.covariance,
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: collapsed_loss(options_of(config, VICRegConfig).variance),
    config=VICRegConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 2048,
        "projector_norm": True,
    },
)
