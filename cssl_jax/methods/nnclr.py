"""NNCLR (arXiv 2104.14548): the positive of a view is the nearest neighbour of the other view."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import POSITIVE, Range
from cssl_jax.losses.core.similarity import TileSize, normalize_rows, product
from cssl_jax.losses.infonce import query_contrast
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs
from cssl_jax.methods.core.contrasts import contrast_metrics, mean_loss
from cssl_jax.methods.core.queue import enqueue, start_queue
from cssl_jax.methods.core.two_view_methods import Predicting
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNCLRConfig(MethodConfig):
    """NNCLR: predictions against the nearest neighbours of the other views in a support set.

    Attributes:
        temperature: Temperature tau that divides the similarities.
        predictor_hidden: Width of the predictor's hidden layer.
        queue: Number of earlier projections in the support set.
        tile_size: Rows per tile of the similarity matrix, see method simclr.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "temperature": POSITIVE,
        "predictor_hidden": POSITIVE,
        "queue": POSITIVE,
        "tile_size": POSITIVE,
    }

    name: str = "nnclr"
    temperature: float = 0.2
    predictor_hidden: int = 4096
    queue: int = 16384
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True)
class NNCLR(Predicting):
    """The objective of NNCLR: mean of both directions of InfoNCE from neighbours to predictions.

    The neighbour of one view selects the prediction of the other view among the predictions of that
    view for the global batch. The support set holds projections of first views; those of a step
    enter it after its loss.

    Attributes:
        width: Width d of a projection.
        temperature: tau of InfoNCE.
        queue: Number of rows of the support set.
        tile_size: Rows per tile of the similarity matrix; see ``info_nce``.
    """

    width: int
    temperature: float = 0.2
    queue: int = 16384
    tile_size: TileSize = None

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The support set, filled with random directions."""
        return {"support": start_queue(jax.random.key(0), self.queue, self.width)}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples; "neighbour_similarity" is the cosine to the neighbour."""
        z, p = outputs["projections"], outputs["predictions"]
        support = method_state["support"]["rows"]
        found = [nearest_rows(z[:, view], support) for view in (0, 1)]
        contrasts = [
            query_contrast(
                found[view][0],
                p[:, 1 - view],
                temperature=self.temperature,
                axis_name=ctx.axis_name,
                tile_size=self.tile_size,
            )
            for view in (0, 1)
        ]
        loss = mean_loss(contrasts)
        metrics = {
            **contrast_metrics(contrasts),
            "neighbour_similarity": jnp.mean(jnp.stack([cosine for _, cosine in found])),
        }
        return loss, {"loss": loss, **metrics}, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The support set with the step's projections of first views."""
        rows = ctx.global_rows(step.outputs["projections"][:, 0])
        return {"support": enqueue(method_state["support"], rows)}


def nearest_rows(z: jax.Array, support: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest row of the support set by cosine, and that cosine, per row of z; without gradient.

    Args:
        z: Rows of this device, float [n, d]; any norm.
        support: Unit rows, float [K, d].

    Returns:
        (rows [n, d], cosines [n]); the first of several nearest rows.
    """
    z, support = lax.stop_gradient((z, support))
    similarities = product(normalize_rows(z), support.T)
    nearest = jnp.argmax(similarities, axis=1)
    return support[nearest], jnp.max(similarities, axis=1)


def _build(config: Config, modules: Modules) -> NNCLR:
    options = options_of(config, NNCLRConfig)
    predictor = modules.head(
        layers=2, hidden=options.predictor_hidden, norm=True, last="none", last_bias=True
    )
    return NNCLR(
        modules.encoder,
        modules.head(last="bn"),
        predictor,
        config.model.projector_dim,
        options.temperature,
        options.queue,
        options.tile_size,
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(config.train.batch_size),
    config=NNCLRConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 256,
        "projector_norm": True,
    },
    contrastive=True,
    cost=lambda config: StepCost(tile_size=options_of(config, NNCLRConfig).tile_size),
)
