"""What the package needs to know of a method by its name."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn

from cssl_jax.config import Config
from cssl_jax.methods.base import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modules:
    """Network modules that a method may be built from.

    Attributes:
        encoder: Encoder module of ``model.encoder``; it provides ``num_stages`` and ``depth_of``.
        head: Builds the projection head of ``model.projector_*``; keyword arguments replace its
            fields.
    """

    encoder: nn.Module
    head: Callable[..., nn.Module]


def _accept(config: Config) -> None:
    """Refuses nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """Registry entry of a method.

    Attributes:
        build: (config, modules) -> the method.
        chance_level: config -> loss of a model that has learnt nothing, logged beside the loss.
        check: config -> None; raises UserError where options do not fit this method.
        evaluation: How its models are evaluated: by protocols on frozen "features", or by the
            accuracy of its own "classifier".
        labelled: True if it trains on labels.
        paired: True if each example is a pair of one image from data.source and one from
            adapt.target.
        contrastive: True if ``method.temperature`` scales a two-view contrast, so that the verdicts
            on contrastive training apply.
        sections: Config sections with options of this method.
    """

    build: Callable[[Config, Modules], Method]
    chance_level: Callable[[Config], float]
    check: Callable[[Config], None] = _accept
    evaluation: Literal["features", "classifier"] = "features"
    labelled: bool = False
    paired: bool = False
    contrastive: bool = False
    sections: tuple[str, ...] = ("method",)
