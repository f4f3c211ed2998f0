"""SimCSE (arXiv 2104.08821): the same text twice, with two dropout masks."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import chex
import jax
import jax.numpy as jnp

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

HEADS: dict[str, tuple[Layer, ...]] = {"tanh": (Layer(0, activation="tanh"),), "none": ()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCSEConfig(MethodConfig):
    """SimCSE: a text is encoded twice with two dropout masks, and contrasted with the others.

    Attributes:
        temperature: Temperature tau that divides the similarities in the loss.
        dropout: Rate of the encoder's dropout, the augmentation of the paper.
        masks: Dropout masks of the views of a text: "two" draws one for each; "same" draws one for
            both, the paper's control, which learns next to nothing.
        head: Head above the features in training: "tanh" is the paper's dense layer with tanh;
            "none" contrasts the features themselves. It is dropped afterwards.
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
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True)
class SimCSE(TwoViews):
    """The objective of unsupervised SimCSE, InfoNCE in one direction.

    The first view of a text selects the second one among those of the global batch; the gradient
    flows through both. The loss is the mean over the N texts, ln N by chance.

    Attributes:
        temperature: tau of InfoNCE.
        same_masks: True to draw one dropout mask for both views.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.
    """

    temperature: float = 0.05
    same_masks: bool = False
    tile_size: TileSize = None

    def row_keys(self, batch: Batch, views: int) -> jax.Array | None:
        """Keys of the dropout masks, uint32 [n views, 2]; see ``mask_keys``."""
        if not self.same_masks:
            return mask_keys(batch, views)
        keys = mask_keys(batch, 1)
        return None if keys is None else jnp.repeat(keys, views, axis=0)

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's texts against the global batch."""
        chex.assert_shape(outputs, (None, 2, None))
        contrast = query_contrast(
            outputs[:, 0],
            outputs[:, 1],
            temperature=self.temperature,
            axis_name=ctx.axis_name,
            tile_size=self.tile_size,
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
    )


def _loss_cost(head: str, sizes: StepSizes) -> LossCost:
    """Cost of the head and of the comparison of n first views with N second ones."""
    local, width = sizes.batch // sizes.devices, sizes.features
    dense = width * width if head == "tanh" else 0
    return LossCost(
        flops=3 * 2 * (local * sizes.batch * width + 2 * local * dense),
        gathered=4 * sizes.batch * width,
        gathered_masks=0,
        all_reduce=0,
        metrics=3,
        parameters=dense + width if head == "tanh" else 0,
    )


def _cost(config: Config) -> StepCost:
    options = options_of(config, SimCSEConfig)
    loss = functools.partial(_loss_cost, options.head)
    return StepCost(tile_size=options.tile_size, loss=loss)


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(config.train.batch_size),
    config=SimCSEConfig,
    contrastive=True,
    cost=_cost,
)
