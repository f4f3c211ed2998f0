"""Encoder and heads of the methods that compare two views of an example."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
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
from cssl_jax.methods.core.momentum import Momentum, start_copy

_PREDICTOR = 0x70726564  # the predictor's key is folded with it: the other keys stay as they are


@dataclasses.dataclass(frozen=True)
class TwoViews(Method):
    """Base of the methods with two views, one encoder and one projection head.

    Attributes:
        encoder: Module from inputs, such as images, to a dict with "features" [n, D].
        projector: Module from features to projections [n, d].
    """

    encoder: nn.Module
    projector: nn.Module

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
    ) -> tuple[PyTree, PyTree]:
        """Projections [n, k, d] of k views."""
        return self.project_views(params, model_state, batch, ctx)

    def project_views(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        ctx: Context,
        group: str = "main",
        first: int = 0,
    ) -> tuple[jax.Array, PyTree]:
        """(projections [n, k, d] of k views, next running statistics of both modules).

        ``first`` is the number of the group's first view among all views.
        """
        return self.features_and_projections(params, model_state, batch, ctx, group, first)[1:]

    def features_and_projections(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        ctx: Context,
        group: str = "main",
        first: int = 0,
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        """Features [n, k, D] of the encoder, and both results of ``project_views``."""
        views = batch["views"][group]
        n, k = jax.tree.leaves(views)[0].shape[:2]
        keys = self.row_keys(batch, k, first)
        encoded, encoder_state = self._run(
            "encoder", params, model_state, flat_views(views), ctx, keys=keys
        )
        projections, projector_state = self._run(
            "projector", params, model_state, encoded["features"], ctx
        )
        state = {"encoder": encoder_state, "projector": projector_state}
        features = encoded["features"].reshape(n, k, -1)
        return features, projections.reshape(n, k, -1), state

    def row_keys(self, batch: Batch, views: int, first: int = 0) -> jax.Array | None:
        """Keys of the encoder's random masks, uint32 [n views, 2]; see ``mask_keys``."""
        return mask_keys(batch, views, first)

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


@dataclasses.dataclass(frozen=True)
class Predicting(TwoViews):
    """Base of the methods that predict the other view's projection from a view's own.

    Attributes:
        predictor: Module from projections to predictions, both [n, d].
    """

    predictor: nn.Module

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises the three modules; needs no mapped axis."""
        params, model_state = super().init(key, batch)
        rows = flat_views(batch["views"]["main"])
        variables = {"params": params["encoder"], "batch_stats": model_state["encoder"]}
        features = jax.eval_shape(self.encoder.apply, variables, rows)["features"]
        variables = {"params": params["projector"], "batch_stats": model_state["projector"]}
        projections = jax.eval_shape(self.projector.apply, variables, features)
        predictor = self.predictor.init(
            jax.random.fold_in(key, _PREDICTOR), jnp.zeros(projections.shape, projections.dtype)
        )
        more_params, more_state = split_variables({"predictor": predictor})
        return {**params, **more_params}, {**model_state, **more_state}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """{"projections", "predictions"}, both [n, k, d] of k views."""
        projections, state = self.project_views(params, model_state, batch, ctx)
        predictions, predictor_state = self._run(
            "predictor", params, model_state, projections.reshape(-1, projections.shape[-1]), ctx
        )
        outputs = {
            "projections": projections,
            "predictions": predictions.reshape(projections.shape),
        }
        return outputs, {**state, "predictor": predictor_state}


@dataclasses.dataclass(frozen=True)
class Following(Predicting):
    """Base of the methods whose targets are projections by a momentum copy.

    Attributes:
        momentum: Momentum of the copy of encoder and projector.
    """

    momentum: Momentum

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The copy: {"params", "model_state"} of encoder and projector."""
        return start_copy(params, model_state)

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections of the copy [n, 2, d], and its next running statistics."""
        return self.project_views(method_state["params"], method_state["model_state"], batch, ctx)


def one_view(batch: Batch, number: int) -> Batch:
    """The batch with one view per example, [n, 1, ...], of the group "main"."""
    views = jax.tree.map(lambda x: x[:, number : number + 1], batch["views"]["main"])
    return {**batch, "views": {**batch["views"], "main": views}}
