"""SimCLR (arXiv 2002.05709): two views, one encoder, a projection head, NT-Xent."""

import dataclasses

import chex
import jax
from jax import lax

from cssl_jax.config import Config, SimCLRConfig
from cssl_jax.losses import ntxent
from cssl_jax.losses.core.similarity import Contrast, TileSize
from cssl_jax.losses.core.two_views import two_view_contrast
from cssl_jax.losses.registry import LossEntry, loss_entry
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of


@dataclasses.dataclass(frozen=True)
class SimCLR(TwoViews):
    """The SimCLR objective.

    Attributes:
        temperature: tau of NT-Xent; 0.1 on ImageNet, 0.5 on CIFAR-10 over long runs (App. B.9).
        tile_size: Rows per tile of the similarity matrix; see ``nt_xent``.
        loss: Loss of two views in place of NT-Xent; None: NT-Xent.
    """

    temperature: float = 0.1
    tile_size: TileSize = None
    loss: LossEntry | None = None

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples against the global batch."""
        chex.assert_shape(outputs, (None, 2, None))
        first, second = outputs[:, 0], outputs[:, 1]
        if self.loss is None:
            seen = self._contrast(first, second, ctx)
            loss = ntxent.loss_from(seen)
        else:
            labels = {"labels": examples["label"]} if self.loss.labelled else {}
            loss = self.loss.loss(
                first,
                second,
                temperature=self.temperature,
                axis_name=ctx.axis_name,
                tile_size=self.tile_size,
                **labels,
            )
            # By the same metrics, runs with different losses can be compared.
            seen = self._contrast(*lax.stop_gradient((first, second)), ctx)
        metrics = {
            "contrastive_accuracy": ntxent.accuracy_from(seen),
            "contrastive_entropy": ntxent.entropy_from(seen),
        }
        return loss, {"loss": loss, **metrics}, {}

    def _contrast(self, first: jax.Array, second: jax.Array, ctx: Context) -> Contrast:
        return two_view_contrast(
            first,
            second,
            temperature=self.temperature,
            axis_name=ctx.axis_name,
            tile_size=self.tile_size,
        )


def _build(config: Config, modules: Modules) -> SimCLR:
    options = options_of(config, SimCLRConfig)
    return SimCLR(
        modules.encoder,
        modules.head(),
        options.temperature,
        options.tile_size,
        None if options.loss == "nt_xent" else loss_entry(options.loss),
    )


def _loss(config: Config) -> LossEntry:
    return loss_entry(options_of(config, SimCLRConfig).loss)


def _temperature(config: Config) -> float | None:
    options = options_of(config, SimCLRConfig)
    return options.temperature if options.loss == "nt_xent" else None


def _check(config: Config) -> None:
    _loss(config)  # refuses an unknown name


def _chance_level(config: Config) -> float:
    options = options_of(config, SimCLRConfig)
    return loss_entry(options.loss).chance_level(config.train.batch_size, options.temperature)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=SimCLRConfig,
    check=_check,
    labelled=lambda config: _loss(config).labelled,
    contrastive=True,
    temperature=_temperature,
    cost=lambda config: StepCost(tile_size=options_of(config, SimCLRConfig).tile_size),
)
