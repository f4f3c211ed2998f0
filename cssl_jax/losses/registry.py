"""Losses of two views by name; a new one is a file in this package and a line here."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.losses.dcl import dcl
from cssl_jax.losses.hard_negatives import hard_nt_xent
from cssl_jax.losses.infonce import clip
from cssl_jax.losses.margin import contrastive, triplet
from cssl_jax.losses.ntxent import chance_level, nt_xent
from cssl_jax.losses.sigmoid import nt_logistic
from cssl_jax.losses.supcon import sup_con
from cssl_jax.registries import look_up


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossEntry:
    """Registry entry of a loss of two views.

    Attributes:
        loss: (z1, z2, *, temperature, axis_name, tile_size) -> the local loss, as in ``nt_xent``.
            With ``labelled``, it also takes ``labels``, int32 [n]; -1 is no label.
        chance_level: (global batch size, temperature) -> loss if all projections are identical.
        labelled: True if the loss needs labels.
    """

    loss: Callable[..., jax.Array]
    chance_level: Callable[[int, float], float]
    labelled: bool = False


def _without_temperature(
    loss: Callable[..., jax.Array], *, tiled: bool
) -> Callable[..., jax.Array]:
    """A margin loss that accepts a temperature, and a tile size if it has no tiles, unused."""

    def adapted(
        z1: jax.Array,
        z2: jax.Array,
        *,
        temperature: float,
        axis_name: str | None,
        tile_size: TileSize,
    ) -> jax.Array:
        del temperature
        tiles = {"tile_size": tile_size} if tiled else {}
        return loss(z1, z2, axis_name=axis_name, **tiles)

    return adapted


def _sup_con(
    z1: jax.Array,
    z2: jax.Array,
    *,
    labels: jax.Array,
    **options: Any,
) -> jax.Array:
    return sup_con(jnp.stack([z1, z2], axis=1), labels, **options)


def _decoupled(batch_size: int, temperature: float) -> float:
    return math.log(2 * batch_size - 2)


def _all_others(batch_size: int, temperature: float) -> float:
    return chance_level(batch_size)


LOSSES: dict[str, str | LossEntry] = {
    "nt_xent": LossEntry(loss=nt_xent, chance_level=_all_others),
    "dcl": LossEntry(loss=dcl, chance_level=_decoupled),
    "dcl_w": LossEntry(loss=functools.partial(dcl, sigma=0.5), chance_level=_decoupled),
    "hard_nt_xent": LossEntry(loss=hard_nt_xent, chance_level=_all_others),
    "debiased": LossEntry(loss=functools.partial(hard_nt_xent, beta=0.0), chance_level=_all_others),
    "sup_con": LossEntry(loss=_sup_con, chance_level=_all_others, labelled=True),
    "nt_logistic": LossEntry(
        loss=nt_logistic,
        chance_level=lambda _, temperature: (
            math.log1p(math.exp(-1 / temperature)) + math.log1p(math.exp(1 / temperature))
        ),
    ),
    "clip": LossEntry(loss=clip, chance_level=lambda batch_size, _: math.log(batch_size)),
    "contrastive": LossEntry(
        loss=_without_temperature(contrastive, tiled=True),
        chance_level=lambda *_: 0.5,  # half the squared margin
    ),
    "triplet": LossEntry(
        loss=_without_temperature(triplet, tiled=False),
        chance_level=lambda *_: 0.5,  # the margin
    ),
}


def loss_entry(name: str) -> LossEntry:
    """Returns the entry of a loss.

    Args:
        name: Key of ``LOSSES``, or "file.py:NAME" of a ``LossEntry`` in a file.

    Raises:
        UserError: There is no such loss.

    Example:
        >>> round(loss_entry("nt_xent").chance_level(2, 0.1), 4)  # ln(2 x 2 - 1)
        1.0986
    """
    return look_up("loss", name, LOSSES, LossEntry)
