"""COLA (arXiv 2010.10915): a bilinear similarity of two segments of a recording."""

import dataclasses
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.losses.core.similarity import first_row, gather, product
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost

_BILINEAR = 0x62696C69  # the key of the bilinear map is folded with it


@dataclasses.dataclass(frozen=True, kw_only=True)
class COLAConfig(MethodConfig):
    """Each first view selects its second view among those of all examples, by a learnt similarity.

    The method has no temperature: the scale of the similarity is learnt.
    """

    name: str = "cola"


@dataclasses.dataclass(frozen=True)
class COLA(TwoViews):
    """The objective of COLA: cross entropy of z W z' over the second views of the global batch.

    The projections z are the tanh of the layer-normalised outputs of the head, as in the authors'
    code. One direction only: first views are the anchors (eq. 2). The loss is the mean over the N
    anchors.
    """

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises encoder, head and the bilinear map; needs no mapped axis."""
        params, model_state = super().init(key, batch)
        width = self._width(params, model_state, batch)
        kernel = nn.initializers.lecun_normal()(jax.random.fold_in(key, _BILINEAR), (width, width))
        return {**params, "similarity": {"kernel": kernel}}, {**model_state, "similarity": {}}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections [n, 2, d] within (-1, 1)."""
        outputs, state = self.project_views(params, model_state, batch, ctx)
        return jnp.tanh(_standardised(outputs)), {**state, "similarity": {}}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's anchors against the second views of the global batch."""
        chex.assert_shape(outputs, (None, 2, None))
        queries = product(outputs[:, 0], params["similarity"]["kernel"])
        keys = gather(outputs[:, 1], ctx.axis_name)
        logits = product(queries, keys.T)
        own = first_row(len(queries), ctx.axis_name) + jnp.arange(len(queries))
        positive = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
        loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)
        hits = lax.stop_gradient(logits.argmax(axis=1) == own)
        return loss, {"loss": loss, "contrastive_accuracy": hits.mean(dtype=loss.dtype)}, {}

    def _width(self, params: PyTree, model_state: PyTree, batch: Batch) -> int:
        """Width of the projections."""
        variables = [
            {"params": params[name], "batch_stats": model_state[name]}
            for name in ("encoder", "projector")
        ]
        rows = jax.tree.map(lambda x: x[:, 0], batch["views"]["main"])
        features = jax.eval_shape(self.encoder.apply, variables[0], rows)["features"]
        return int(jax.eval_shape(self.projector.apply, variables[1], features).shape[-1])


def _standardised(x: jax.Array) -> jax.Array:
    """Rows with a mean of 0 and a variance of 1: a LayerNorm without scale and bias."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)


def _build(config: Config, modules: Modules) -> COLA:
    return COLA(modules.encoder, modules.head(last="none", last_bias=True))


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(config.train.batch_size),
    config=COLAConfig,
    # Dense 512 and a LayerNorm in the authors' code.
    model={"projector_layers": 1, "projector_dim": 512, "projector_norm": False},
    contrastive=True,
    cost=lambda config: StepCost(contrasts=False),
)
