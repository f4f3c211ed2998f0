"""Barlow Twins (arXiv 2103.03230): the cross-correlation of two views is to be the identity."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import chex
import jax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import NOT_NEGATIVE, POSITIVE, Range
from cssl_jax.losses.barlow_twins import barlow_twins
from cssl_jax.losses.barlow_twins import chance_level as expected_loss
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins: features of two views that are equal per feature and uncorrelated between them.

    Attributes:
        off_diagonal: Weight lambda of the squared correlations between different features.
        scale: Factor of the loss. It matters to SGD and Adam, and to the parameters that LARS does
            not adapt.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"off_diagonal": NOT_NEGATIVE, "scale": POSITIVE}

    name: str = "barlow_twins"
    off_diagonal: float = 0.0051
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class BarlowTwins(TwoViews):
    """The objective of Barlow Twins over the global batch.

    Attributes:
        off_diagonal: Weight lambda of the entries off the diagonal.
        scale: Factor of the loss.
    """

    off_diagonal: float = 0.0051
    scale: float = 1.0

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of the global batch; metrics are its two terms before ``scale``."""
        chex.assert_shape(outputs, (None, 2, None))
        loss, terms = barlow_twins(
            outputs[:, 0],
            outputs[:, 1],
            off_diagonal=self.off_diagonal,
            axis_name=ctx.axis_name,
        )
        loss = self.scale * loss
        return loss, {"loss": loss, **terms}, {}


def _build(config: Config, modules: Modules) -> BarlowTwins:
    options = options_of(config, BarlowTwinsConfig)
    return BarlowTwins(
        modules.encoder, modules.head(last="none"), options.off_diagonal, options.scale
    )


def _chance_level(config: Config) -> float:
    options = options_of(config, BarlowTwinsConfig)
    batch, width = config.train.batch_size, config.model.projector_dim
    return options.scale * expected_loss(batch, width, options.off_diagonal)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=BarlowTwinsConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 2048,
        "projector_norm": True,
    },
)
