"""LeJEPA (arXiv 2511.08544): views that agree, with projections that are an isotropic Gaussian."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import FRACTION, POSITIVE, Range
from cssl_jax.losses.core.batch_statistics import centred
from cssl_jax.losses.sigreg import chance_level as collapsed_loss
from cssl_jax.losses.sigreg import random_directions, sigreg
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, options_of

DIRECTIONS = 0x736C6963  # separates the key of the directions from other keys of a step


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeJEPAConfig(MethodConfig):
    """LeJEPA: projections of the views that agree, and are distributed as N(0, I) over images.

    Attributes:
        weight: Weight of SIGReg; the agreement of the views has the rest.
        directions: Number of random directions of SIGReg, drawn again at every step.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"weight": FRACTION, "directions": POSITIVE}

    name: str = "lejepa"
    weight: float = 0.02
    directions: int = 256


@dataclasses.dataclass(frozen=True)
class LeJEPA(TwoViews):
    """The objective of LeJEPA over the global batch; no teacher, predictor or stopped gradient.

    Attributes:
        weight: Weight of SIGReg.
        directions: Number of random directions per step.
    """

    weight: float = 0.02
    directions: int = 256

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of the global batch; its terms before their weights, and "projection_std".

        The invariance is the mean squared distance of a view's projection from the mean of the
        views. SIGReg is the mean over the views, each a batch of its own. "projection_std" is
        the mean standard deviation of the features, counted up to 1: 0 if all projections are
        identical.
        """
        chex.assert_shape(outputs, (None, 2, None))
        views = jnp.moveaxis(outputs, 1, 0)
        views = views.astype(jnp.promote_types(views.dtype, jnp.float32))
        invariance = jnp.mean(jnp.square(views - jnp.mean(views, axis=0)))
        directions = random_directions(
            ctx.key(DIRECTIONS), views.shape[-1], self.directions, views.dtype
        )
        regular = jnp.mean(
            jnp.stack([sigreg(view, directions, axis_name=ctx.axis_name) for view in views])
        )
        loss = (1 - self.weight) * invariance + self.weight * regular
        variance = jax.lax.stop_gradient(centred(views, ctx.axis_name)[1])
        spread = jnp.mean(jnp.minimum(jnp.sqrt(variance), 1))
        terms = {"invariance": invariance, "sigreg": regular, "projection_std": spread}
        return loss, {"loss": loss, **terms}, {}


def _build(config: Config, modules: Modules) -> LeJEPA:
    options = options_of(config, LeJEPAConfig)
    return LeJEPA(modules.encoder, modules.head(last="none"), options.weight, options.directions)


def _chance_level(config: Config) -> float:
    """Loss of projections that are all at the origin."""
    return options_of(config, LeJEPAConfig).weight * collapsed_loss(config.train.batch_size)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=LeJEPAConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 64,
        "projector_norm": True,
    },
)
