"""MoCo v3 (arXiv 2104.02057): predictions against the keys of a momentum copy, without a queue."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
from jax import lax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import FRACTION, POSITIVE, Range
from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.losses.infonce import query_contrast
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs
from cssl_jax.methods.core.contrasts import contrast_metrics, mean_loss
from cssl_jax.methods.core.momentum import Momentum, follow
from cssl_jax.methods.core.two_view_methods import Following
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV3Config(MethodConfig):
    """MoCo v3: each view's prediction selects the other view's key among the keys of the batch.

    Attributes:
        temperature: Temperature tau that divides the similarities; 1.0 in the paper for ResNet-50,
            0.2 for vision transformers and in solo-learn's recipes.
        predictor_hidden: Width of the predictor's hidden layer.
        momentum: Fraction of the copy that survives the first update.
        momentum_end: Fraction of the copy that survives the last update; half a cosine leads there.
        tile_size: Rows per tile of the similarity matrix, see method simclr.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "temperature": POSITIVE,
        "predictor_hidden": POSITIVE,
        "momentum": FRACTION,
        "momentum_end": FRACTION,
        "tile_size": POSITIVE,
    }

    name: str = "moco_v3"
    temperature: float = 0.2
    predictor_hidden: int = 4096
    momentum: float = 0.99
    momentum_end: float = 1.0
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True)
class MoCoV3(Following):
    """The objective of MoCo v3: sum of both directions of 2 tau InfoNCE (Alg. 1).

    A query's candidates are the copy's keys of the other view for the whole global batch. The copy
    follows before the keys of the next step are computed, with the momentum of the next step.

    Attributes:
        temperature: tau of InfoNCE.
        tile_size: Rows per tile of the similarity matrix; see ``info_nce``.
    """

    temperature: float = 0.2
    tile_size: TileSize = None

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples against the keys of the global batch."""
        queries, keys = outputs["predictions"], lax.stop_gradient(examples["targets"])
        contrasts = [
            query_contrast(
                queries[:, view],
                keys[:, 1 - view],
                temperature=self.temperature,
                axis_name=ctx.axis_name,
                tile_size=self.tile_size,
            )
            for view in (0, 1)
        ]
        loss = 4 * self.temperature * mean_loss(contrasts)
        return loss, {"loss": loss, **contrast_metrics(contrasts)}, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The copy after it has followed the updated parameters."""
        rate = self.momentum.rate(ctx.step + 1, ctx.total_steps)
        return follow(method_state, params, step.target_state, rate)


def _build(config: Config, modules: Modules) -> MoCoV3:
    options = options_of(config, MoCoV3Config)
    predictor = modules.head(layers=2, hidden=options.predictor_hidden, norm=True, last="none")
    return MoCoV3(
        modules.encoder,
        modules.head(last="bn_plain"),
        predictor,
        Momentum(options.momentum, options.momentum_end),
        options.temperature,
        options.tile_size,
    )


def _chance_level(config: Config) -> float:
    tau = options_of(config, MoCoV3Config).temperature
    return 4 * tau * math.log(config.train.batch_size)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=MoCoV3Config,
    model={
        "norm_views": "apart",
        "projector_layers": 2,
        "projector_hidden": 4096,
        "projector_dim": 256,
        "projector_norm": True,
    },
    contrastive=True,
    cost=lambda config: StepCost(targets=2, tile_size=options_of(config, MoCoV3Config).tile_size),
)
