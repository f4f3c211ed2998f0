"""SimSiam (arXiv 2011.10566): a predictor and a stopped gradient, without negatives or a copy."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import POSITIVE, Range
from cssl_jax.losses.cosine import negative_cosine, unit_std
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import Predicting
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.methods.parameter_group import ParameterGroup


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiamConfig(MethodConfig):
    """SimSiam: each view's prediction is to point to the other view's projection.

    Attributes:
        predictor_hidden: Width of the predictor's hidden layer.
        constant_predictor_rate: Train the predictor at the peak learning rate throughout, without
            warm-up and decay.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"predictor_hidden": POSITIVE}

    name: str = "simsiam"
    predictor_hidden: int = 512
    constant_predictor_rate: bool = True


@dataclasses.dataclass(frozen=True)
class SimSiam(Predicting):
    """The objective of SimSiam: mean of both directions of the negative cosine (eq. 2).

    The loss lies within [-1, 1]. It is a mean over examples.

    Attributes:
        constant_predictor_rate: True to train the predictor at the peak learning rate throughout.
    """

    constant_predictor_rate: bool = True
    separable = True

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples; "projection_std" is 0 where projections collapse."""
        z, p = outputs["projections"], outputs["predictions"]
        loss = (negative_cosine(p[:, 0], z[:, 1]) + negative_cosine(p[:, 1], z[:, 0])) / 2
        spread = unit_std(z[:, 0], ctx.axis_name)
        return loss, {"loss": loss, "projection_std": spread}, {}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """A constant learning rate of the predictor (sec. 4.2), the schedule of all others."""
        is_predictor = path[0].key == "predictor"
        return ParameterGroup(constant=is_predictor and self.constant_predictor_rate)


def _build(config: Config, modules: Modules) -> SimSiam:
    options = options_of(config, SimSiamConfig)
    predictor = modules.head(
        layers=2, hidden=options.predictor_hidden, norm=True, last="none", last_bias=True
    )
    return SimSiam(
        modules.encoder,
        modules.head(last="bn_plain"),
        predictor,
        options.constant_predictor_rate,
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: 0.0,
    config=SimSiamConfig,
    model={
        "norm_views": "apart",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 2048,
        "projector_norm": True,
    },
    cost=lambda config: StepCost(contrasts=False),
)
