"""What the package needs to know of a method by its name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn

from cssl_jax.config import Config, MethodConfig
from cssl_jax.losses.core.similarity import TileSize
from cssl_jax.methods.base import Method

Section = TypeVar("Section", bound=MethodConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modules:
    """Network modules that a method may be built from.

    Attributes:
        encoder: Encoder module of ``model.encoder``; it provides ``num_stages`` and ``depth_of``.
        head: Builds the projection head of ``model.projector_*``; keyword arguments replace its
            fields.
        teacher: Method of the run that the entry's ``teacher`` names; None where nothing is
            trained.
    """

    encoder: nn.Module
    head: Callable[..., nn.Module]
    teacher: Method | None = None


class StepSizes(NamedTuple):
    """Sizes that the cost of a loss of steps depends on.

    Attributes:
        batch: Global batch size N in examples.
        devices: Number of devices that the batch is split over.
        steps: Number of steps T of a view.
        features: Width D of the encoder's features.
    """

    batch: int
    devices: int
    steps: int
    features: int


class LossCost(NamedTuple):
    """Cost of a loss on one device.

    Attributes:
        flops: Operations, forward and backward.
        gathered: Bytes of the all-gathers' results that are differentiated.
        gathered_masks: Bytes of the results of the other all-gathers.
        all_reduce: Bytes of the all-reduces' operands, besides gradient and metrics.
        metrics: Number of scalars that are averaged along with the gradient.
        parameters: Number of parameters of modules that only the loss uses.
    """

    flops: int
    gathered: int
    gathered_masks: int
    all_reduce: int
    metrics: int
    parameters: int = 0


@dataclasses.dataclass(frozen=True)
class LocalViews:
    """Views of another size than the encoder's input.

    Attributes:
        count: Number of them per example, encoded and differentiated.
        size: Side of such a view in pixels.
    """

    count: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """What the closed formulas of ``cssl-jax plan`` must know of a method's step.

    Attributes:
        views: Number of views per example that are encoded and differentiated.
        targets: Number of views per example that are encoded without a gradient.
        contrasts: True if each projection is compared with those of the global batch.
        tile_size: Tiles of that comparison, see ``choose_tile``.
        loss: Cost of a loss of the steps of series, in place of a projection head and its
            comparison; None: the method has the head of ``model.projector_*``.
        local: Further views of another size; None: there are none.
        prototypes: Number of vectors that every projection is compared with, parameters of the
            method.
        averaged: Number of floats that are averaged over the devices, besides gradient and metrics.
        metrics: Number of scalars that are averaged along with the gradient, the loss among them.
        spread: Number of views whose features are compared with those of the global batch, to find
            the nearest.
        scaled: Number of rows of prototypes that each device receives from every other without a
            gradient, as ``sinkhorn`` does in every iteration.
        visible: Fraction of the patches of a Vision Transformer that are computed.
    """

    views: int = 2
    targets: int = 0
    contrasts: bool = True
    tile_size: TileSize = None
    loss: Callable[[StepSizes], LossCost] | None = None
    local: LocalViews | None = None
    prototypes: int = 0
    averaged: int = 0
    metrics: int = 3
    spread: int = 0
    scaled: int = 0
    visible: float = 1.0


def _accept(config: Config) -> None:
    """Refuses nothing."""


def _never(config: Config) -> bool:
    return False


def _no_temperature(config: Config) -> None:
    return None


def _two_views(config: Config) -> StepCost:
    return StepCost(contrasts=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """Registry entry of a method.

    Attributes:
        build: (config, modules) -> the method.
        chance_level: config -> loss of a model that has learnt nothing, logged beside the loss.
        config: Class of the config section ``method``: the method's options and their defaults.
        model: Values of the config section ``model`` that come with the method's name, such as the
            widths of its projection head; the others stay those of the recipe.
        check: config -> None; raises UserError where options do not fit this method.
        evaluation: How its models are evaluated: by protocols on frozen "features", or by the
            accuracy of its own "classifier".
        labelled: config -> True if it trains on labels.
        members: config -> names of the arrays that it needs in the examples, such as "negative".
        paired: True if each example is a pair of one image from data.source and one from
            adapt.target.
        contrastive: True if the loss falls below its chance level as soon as views of an example
            are distinguished from others; verdicts say so where it does not.
        temperature: config -> temperature of NT-Xent, from which the lowest possible loss follows;
            None for another loss.
        teacher: config -> folder of the run whose method and weights it is trained with; "" for
            none.
        cost: config -> what a step computes, for the closed formulas of ``cssl-jax plan``.
        sections: Further config sections with options of this method.
    """

    build: Callable[[Config, Modules], Method]
    chance_level: Callable[[Config], float]
    config: type[MethodConfig] = MethodConfig
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[Config], None] = _accept
    evaluation: Literal["features", "classifier"] = "features"
    labelled: Callable[[Config], bool] = _never
    members: Callable[[Config], tuple[str, ...]] = lambda config: ()
    paired: bool = False
    contrastive: bool = False
    temperature: Callable[[Config], float | None] = _no_temperature
    teacher: Callable[[Config], str] = lambda config: ""
    cost: Callable[[Config], StepCost] = _two_views
    sections: tuple[str, ...] = ()


def options_of(config: Config, section: type[Section]) -> Section:
    """The config section ``method``, with the type that the method's entry declares.

    Raises:
        TypeError: It has another type: the config was not made by ``recipes.with_method``.
    """
    options = config.method
    if not isinstance(options, section):
        raise TypeError(f"config.method is {options}; give a {section.__name__}")
    return options
