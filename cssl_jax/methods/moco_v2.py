"""MoCo v2 (arXiv 1911.05722, 2003.04297): queries against a queue of a momentum copy's keys."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import FRACTION, POSITIVE, Range
from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.losses.infonce import query_contrast
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs
from cssl_jax.methods.core.contrasts import contrast_metrics, mean_loss
from cssl_jax.methods.core.momentum import Momentum, follow, start_copy
from cssl_jax.methods.core.queue import enqueue, start_queue
from cssl_jax.methods.core.two_view_methods import TwoViews, one_view
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.models.normalization import NormGroups

QUEUES = ("queue1", "queue2")  # keys that queries of the first and of the second view are given


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV2Config(MethodConfig):
    """MoCo v2: each query selects the key of its other view among a queue of earlier keys.

    Attributes:
        temperature: Temperature tau that divides the similarities.
        queue: Number of keys K that are kept as negatives. Beyond the number of training images,
            an image's own earlier key is one of its negatives.
        momentum: Fraction of the copy that survives the first update.
        momentum_end: Fraction of the copy that survives the last update; half a cosine leads there.
        symmetric: Contrast both views, each with a queue of the other view's keys, and average, as
            in MoCo v2+; otherwise queries are the first views alone.
        strided_keys: Let the copy normalise other groups of images than the encoder, if
            model.norm_group divides the batch. It replaces the shuffled BatchNorm of the paper.
        tile_size: Rows per tile of the similarity matrix, see method simclr.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "temperature": POSITIVE,
        "queue": POSITIVE,
        "momentum": FRACTION,
        "momentum_end": FRACTION,
        "tile_size": POSITIVE,
    }

    name: str = "moco_v2"
    temperature: float = 0.2
    queue: int = 4096
    momentum: float = 0.99
    momentum_end: float = 0.999
    symmetric: bool = True
    strided_keys: bool = True
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True)
class MoCoV2(TwoViews):
    """The objective of MoCo v2: InfoNCE of a query, its key and a queue (arXiv 1911.05722, eq. 1).

    The keys of a step enter the queue after its loss. The loss is a mean over examples.

    Attributes:
        key_encoder: ``encoder`` with the BatchNorm groups of the copy.
        width: Width d of a key.
        momentum: Momentum of the copy of encoder and projector.
        temperature: tau of InfoNCE.
        queue: Number of keys K per queue.
        symmetric: True to contrast both views, each with a queue of its own.
        tile_size: Rows per tile of the similarity matrix; see ``info_nce``.
    """

    key_encoder: nn.Module
    width: int
    momentum: Momentum
    temperature: float = 0.2
    queue: int = 4096
    symmetric: bool = True
    tile_size: TileSize = None
    separable = True

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The copy, and a queue per view of the queries, filled with random directions."""
        names = QUEUES if self.symmetric else QUEUES[:1]
        queues = {
            name: start_queue(jax.random.key(i), self.queue, self.width)
            for i, name in enumerate(names)
        }
        return {**start_copy(params, model_state), **queues}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Queries [n, 2, d]; of the first view alone, [n, 1, d], unless symmetric."""
        batch = batch if self.symmetric else one_view(batch, 0)
        return self.project_views(params, model_state, batch, ctx)

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Keys of the copy, one per direction [n, 1 or 2, d], and its next running statistics."""
        batch = batch if self.symmetric else one_view(batch, 1)
        copy = dataclasses.replace(self, encoder=self.key_encoder)
        keys, statistics = copy.project_views(
            method_state["params"], method_state["model_state"], batch, ctx
        )
        return keys[:, ::-1], statistics  # the key of direction i is that of the other view

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples against the queues."""
        contrasts = [
            query_contrast(
                outputs[:, i],
                jax.lax.stop_gradient(examples["targets"][:, i]),
                temperature=self.temperature,
                tile_size=self.tile_size,
                queue=method_state[name]["rows"],
                in_batch=False,
            )
            for i, name in enumerate(QUEUES)
            if name in method_state
        ]
        loss = mean_loss(contrasts)
        return loss, {"loss": loss, **contrast_metrics(contrasts)}, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The copy after it has followed the parameters, and the queues with the step's keys."""
        rate = self.momentum.rate(ctx.step, ctx.total_steps)
        copy = {name: method_state[name] for name in ("params", "model_state")}
        keys = ctx.global_rows(step.targets)
        queues = {
            name: enqueue(method_state[name], keys[:, i])
            for i, name in enumerate(QUEUES)
            if name in method_state
        }
        return {**follow(copy, params, step.target_state, rate), **queues}


def _build(config: Config, modules: Modules) -> MoCoV2:
    options = options_of(config, MoCoV2Config)
    return MoCoV2(
        modules.encoder,
        modules.head(),
        _strided(modules.encoder) if options.strided_keys else modules.encoder,
        config.model.projector_dim,
        Momentum(options.momentum, options.momentum_end),
        options.temperature,
        options.queue,
        options.symmetric,
        options.tile_size,
    )


def _strided(encoder: Any) -> nn.Module:
    """The encoder with BatchNorm groups of examples that are far apart in the batch."""
    result: nn.Module = encoder
    groups = encoder.norm_groups
    if isinstance(groups, NormGroups) and groups.count > 1:  # one group: nothing to separate
        result = encoder.clone(norm_groups=dataclasses.replace(groups, order="strided"))
    return result


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(1 + options_of(config, MoCoV2Config).queue),
    config=MoCoV2Config,
    model={
        "norm_views": "apart",
        "projector_layers": 2,
        "projector_hidden": 2048,
        "projector_dim": 256,
        "projector_norm": False,
    },
    contrastive=True,
    cost=lambda config: _cost(options_of(config, MoCoV2Config)),
)


def _cost(options: MoCoV2Config) -> StepCost:
    views = 2 if options.symmetric else 1
    return StepCost(views=views, targets=views, contrasts=False)
