"""SimCLR (arXiv 2002.05709): two views, one encoder, a projection head, NT-Xent."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config
from cssl_jax.losses import ntxent
from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.losses.core.two_views import two_view_contrast
from cssl_jax.methods.base import (
    Batch,
    Context,
    Method,
    PyTree,
    flat_views,
    mask_keys,
    run_module,
    split_variables,
)
from cssl_jax.methods.entry import MethodEntry, Modules


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """The SimCLR objective.

    Attributes:
        encoder: Module from inputs, such as images, to a dict with "features" [n, D].
        projector: Module from features to projections [n, d].
        temperature: tau of NT-Xent; 0.1 on ImageNet, 0.5 on CIFAR-10 over long runs (App. B.9).
        tile_size: Rows per tile of the similarity matrix; see ``nt_xent``.
    """

    encoder: nn.Module
    projector: nn.Module
    temperature: float = 0.1
    tile_size: TileSize = None

    @property
    def views(self) -> dict[str, ViewGroup]:
        """Two views per example, in one group."""
        return {"main": ViewGroup(2)}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules; needs no mapped axis."""
        encoder_key, projector_key = jax.random.split(key)
        rows = flat_views(batch["views"]["main"])
        encoder = self.encoder.init(encoder_key, rows)
        features = jax.eval_shape(self.encoder.apply, encoder, rows)["features"]
        projector = self.projector.init(projector_key, jnp.zeros(features.shape, features.dtype))
        modules = {"encoder": encoder, "projector": projector}
        return split_variables(modules)

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """Projections [n, 2, d]."""
        views = batch["views"]["main"]
        n, k = jax.tree.leaves(views)[0].shape[:2]
        encoded, encoder_state = self._run(
            "encoder", params, model_state, flat_views(views), ctx, keys=mask_keys(batch, k)
        )
        projections, projector_state = self._run(
            "projector", params, model_state, encoded["features"], ctx
        )
        state = {"encoder": encoder_state, "projector": projector_state}
        return projections.reshape(n, k, -1), state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """NT-Xent of this device's examples against the global batch."""
        chex.assert_shape(outputs, (None, 2, None))
        seen = two_view_contrast(
            outputs[:, 0],
            outputs[:, 1],
            temperature=self.temperature,
            axis_name=ctx.axis_name,
            tile_size=self.tile_size,
        )
        loss = ntxent.loss_from(seen)
        metrics = {
            "contrastive_accuracy": ntxent.accuracy_from(seen),
            "contrastive_entropy": ntxent.entropy_from(seen),
        }
        return loss, {"loss": loss, **metrics}, {}

    def _run(
        self,
        name: str,
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        ctx: Context,
        keys: jax.Array | None = None,
    ) -> tuple[Any, PyTree]:
        # A module has one training mode. With frozen BatchNorm it draws no masks either.
        train = ctx.train and not ctx.frozen_norm
        return run_module(getattr(self, name), name, params, model_state, x, train, keys)


def _build(config: Config, modules: Modules) -> SimCLR:
    options = config.method
    return SimCLR(modules.encoder, modules.head(), options.temperature, options.tile_size)


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: ntxent.chance_level(config.train.batch_size),
    contrastive=True,
)
