"""SimCSE (arXiv 2104.08821): a text twice with two dropout masks, or pairs of texts."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.text.policy import HardNegativePolicy, TextPolicy
from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import BELOW_ONE, POSITIVE, Range
from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.losses.infonce import query_contrast
from cssl_jax.methods.base import Batch, Context, PyTree, mask_keys
from cssl_jax.methods.core.contrasts import contrast_metrics, mean_loss
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import (
    LossCost,
    MethodEntry,
    Modules,
    StepCost,
    StepSizes,
    options_of,
)
from cssl_jax.models.heads import MLP, Layer

NEGATIVE = "negative"  # name of the column and of the view group of hard negatives
HEADS: dict[str, tuple[Layer, ...]] = {"tanh": (Layer(0, activation="tanh"),), "none": ()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCSEConfig(MethodConfig):
    """SimCSE: a text is encoded twice with two dropout masks, and contrasted with the others.

    Of data with the column positive the second view is that text: supervised SimCSE.

    Attributes:
        temperature: Temperature tau that divides the similarities in the loss.
        dropout: Rate of the encoder's dropout, the augmentation of the paper.
        masks: Dropout masks of the views of a text: "two" draws one for each; "same" draws one for
            both, the paper's control, which learns next to nothing.
        head: Head above the features in training: "tanh" is the paper's dense layer with tanh;
            "none" contrasts the features themselves. It is dropped afterwards.
        hard_negatives: True to contrast every text with the column negative of the data as well,
            those of the whole batch.
        tile_size: Rows per tile of the similarity matrix, which then is never held as a whole; by
            default, "auto", tiles are used if the matrix is large; None disables them. See
            docs/losses.md.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "temperature": POSITIVE,
        "dropout": BELOW_ONE,
        "tile_size": POSITIVE,
    }

    name: str = "simcse"
    temperature: float = 0.05
    dropout: float = 0.1
    masks: Literal["two", "same"] = "two"
    head: Literal["tanh", "none"] = "tanh"
    hard_negatives: bool = False
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True)
class SimCSE(TwoViews):
    """The objective of SimCSE, InfoNCE in one direction (eq. 1; with hard negatives eq. 5).

    The first view of a text selects the second one among those of the global batch, and among its
    hard negatives if there are some; the gradient flows through all. The loss is the mean over the
    N texts, ln N or ln 2N by chance.

    Attributes:
        temperature: tau of InfoNCE.
        same_masks: True to draw one dropout mask for all views.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.
        negatives: Policy of the hard negative of a text; None: there are none.
    """

    temperature: float = 0.05
    same_masks: bool = False
    tile_size: TileSize = None
    negatives: TextPolicy | None = None

    @property
    def views(self) -> dict[str, ViewGroup]:
        """Two views per text, and one of its hard negative in a group of its own."""
        if self.negatives is None:
            return super().views
        return {**super().views, NEGATIVE: ViewGroup(1, policy=self.negatives)}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections [n, k, d] of 2 views, and of the hard negative as the third one."""
        if self.negatives is not None:
            groups = (batch["views"][name] for name in self.views)
            merged = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *groups)
            batch = {**batch, "views": {"main": merged}}
        return super().encode(params, model_state, method_state, batch, ctx)

    def row_keys(self, batch: Batch, views: int, first: int = 0) -> jax.Array | None:
        """Keys of the dropout masks, uint32 [n views, 2]; see ``mask_keys``."""
        if not self.same_masks:
            return mask_keys(batch, views, first)
        keys = mask_keys(batch, 1, first)
        return None if keys is None else jnp.repeat(keys, views, axis=0)

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's texts against the global batch."""
        chex.assert_shape(outputs, (None, 2 if self.negatives is None else 3, None))
        contrast = query_contrast(
            outputs[:, 0],
            outputs[:, 1],
            temperature=self.temperature,
            axis_name=ctx.axis_name,
            tile_size=self.tile_size,
            hard_negatives=None if self.negatives is None else outputs[:, 2],
        )
        loss = mean_loss([contrast])
        return loss, {"loss": loss, **contrast_metrics([contrast])}, {}


def _build(config: Config, modules: Modules) -> SimCSE:
    options = options_of(config, SimCSEConfig)
    encoder = modules.encoder
    if not hasattr(encoder, "dropout"):
        raise UserError(
            f"method 'simcse' draws dropout masks, and encoder {config.model.encoder!r} has no "
            "dropout; give an encoder of text, such as --model.encoder bert_tiny"
        )
    return SimCSE(
        encoder.clone(dropout=options.dropout),
        MLP(HEADS[options.head], dtype=encoder.dtype),
        options.temperature,
        options.masks == "same",
        options.tile_size,
        _negatives(config) if options.hard_negatives else None,
    )


def _negatives(config: Config) -> TextPolicy:
    if not isinstance(config.augment, TextPolicy):
        raise UserError(
            "method.hard_negatives needs texts, and data.modality is "
            f"{config.data.modality!r}; start from recipe text"
        )
    return HardNegativePolicy.of(config.augment)


def _loss_cost(head: str, views: int, sizes: StepSizes) -> LossCost:
    """Cost of the head and of the comparison of n first views with the N (views - 1) others."""
    local, width = sizes.batch // sizes.devices, sizes.features
    dense, others = width * width if head == "tanh" else 0, views - 1
    return LossCost(
        flops=3 * 2 * (local * sizes.batch * others * width + views * local * dense),
        gathered=4 * sizes.batch * others * width,
        gathered_masks=0,
        all_reduce=0,
        metrics=3,
        parameters=dense + width if head == "tanh" else 0,
    )


def _cost(config: Config) -> StepCost:
    options = options_of(config, SimCSEConfig)
    views = 3 if options.hard_negatives else 2
    loss = functools.partial(_loss_cost, options.head, views)
    return StepCost(views=views, tile_size=options.tile_size, loss=loss)


def _chance_level(config: Config) -> float:
    """Loss by chance: ln of the number of candidates."""
    hard = options_of(config, SimCSEConfig).hard_negatives
    return math.log(config.train.batch_size * (2 if hard else 1))


def _members(config: Config) -> tuple[str, ...]:
    hard = options_of(config, SimCSEConfig).hard_negatives
    return ("positive", NEGATIVE) if hard else ()


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    members=_members,
    config=SimCSEConfig,
    contrastive=True,
    cost=_cost,
)
