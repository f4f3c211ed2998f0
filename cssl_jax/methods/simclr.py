"""SimCLR (arXiv 2002.05709): two views, one encoder, a projection head, NT-Xent."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, SimCLRConfig
from cssl_jax.losses import ntxent
from cssl_jax.losses.core.similarity import Contrast, TileSize
from cssl_jax.losses.core.two_views import two_view_contrast
from cssl_jax.losses.registry import LossEntry, loss_entry
from cssl_jax.methods.base import Batch, Context, Method, PyTree, run_module, split_variables
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """The SimCLR objective.

    Attributes:
        encoder: Module from images to a dict with "features" [n, D].
        projector: Module from features to projections [n, d].
        temperature: tau of NT-Xent; 0.1 on ImageNet, 0.5 on CIFAR-10 over long runs (App. B.9).
        tile_size: Rows per tile of the similarity matrix; see ``nt_xent``.
        loss: Loss of two views in place of NT-Xent; None: NT-Xent.
    """

    encoder: nn.Module
    projector: nn.Module
    temperature: float = 0.1
    tile_size: TileSize = None
    loss: LossEntry | None = None

    @property
    def views(self) -> dict[str, ViewGroup]:
        """Two views per example, in one group."""
        return {"main": ViewGroup(2)}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules; needs no mapped axis."""
        encoder_key, projector_key = jax.random.split(key)
        images = _flatten(batch["views"]["main"])
        encoder = self.encoder.init(encoder_key, images)
        features = jax.eval_shape(self.encoder.apply, encoder, images)["features"]
        projector = self.projector.init(projector_key, jnp.zeros(features.shape, features.dtype))
        modules = {"encoder": encoder, "projector": projector}
        return split_variables(modules)

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """Projections [n, 2, d]."""
        images = batch["views"]["main"]
        encoded, encoder_state = self._run("encoder", params, model_state, _flatten(images), ctx)
        projections, projector_state = self._run(
            "projector", params, model_state, encoded["features"], ctx
        )
        state = {"encoder": encoder_state, "projector": projector_state}
        return projections.reshape(*images.shape[:2], -1), state

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

    def _run(
        self, name: str, params: PyTree, model_state: PyTree, x: jax.Array, ctx: Context
    ) -> tuple[Any, PyTree]:
        train = ctx.train and not ctx.frozen_norm  # the modules' only training mode is BatchNorm's
        return run_module(getattr(self, name), name, params, model_state, x, train)


def _flatten(views: jax.Array) -> jax.Array:
    """[n, k, ...] -> [n k, ...], an example's views together, as BatchNorm groups need them."""
    return views.reshape(-1, *views.shape[2:])


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
