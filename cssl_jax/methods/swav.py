"""SwAV (arXiv 2006.09882): each view predicts the prototypes that the other view is assigned to."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import NOT_NEGATIVE, POSITIVE, Range
from cssl_jax.losses.core.similarity import normalize_rows, product
from cssl_jax.losses.swav import swapped_prediction
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.methods.parameter_group import ParameterGroup

_PROTOTYPES = 0x70726F74  # the prototypes' key is folded with it: the other keys stay as they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAVConfig(MethodConfig):
    """SwAV: assignments of the batch to prototypes in equal parts, predicted from the other view.

    Attributes:
        prototypes: Number of prototypes K. A batch with fewer images than prototypes cannot use all
            of them equally.
        temperature: Temperature that divides the cosines in the predictions.
        epsilon: Smoothness of the assignments.
        iterations: Number of pairs of scalings of Sinkhorn's algorithm.
        frozen_epochs: Number of epochs, fractions allowed, in which the prototypes stay as drawn.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "prototypes": POSITIVE,
        "temperature": POSITIVE,
        "epsilon": POSITIVE,
        "iterations": POSITIVE,
        "frozen_epochs": NOT_NEGATIVE,
    }

    name: str = "swav"
    prototypes: int = 512
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    frozen_epochs: float = 1.0


@dataclasses.dataclass(frozen=True)
class SwAV(TwoViews):
    """The objective of SwAV with two views and without a queue.

    The prototypes are the parameter "prototypes", rows of norm 1 after every update.

    Attributes:
        prototypes: Number of prototypes K.
        width: Width d of a projection.
        temperature: Temperature of the predictions.
        epsilon: Smoothness of the assignments.
        iterations: Number of pairs of scalings.
        frozen_epochs: Number of epochs in which the prototypes do not change.
    """

    prototypes: int
    width: int
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    frozen_epochs: float = 1.0

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules, and prototypes in random directions."""
        params, model_state = super().init(key, batch)
        drawn = jax.random.normal(
            jax.random.fold_in(key, _PROTOTYPES), (self.prototypes, self.width), jnp.float32
        )
        return {**params, "prototypes": {"kernel": normalize_rows(drawn)}}, model_state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples, whose assignments depend on the global batch."""
        rows = normalize_rows(outputs.reshape(-1, self.width))
        scores = product(rows, params["prototypes"]["kernel"].T)
        loss = swapped_prediction(
            scores.reshape(-1, 2, self.prototypes),
            temperature=self.temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
            axis_name=ctx.axis_name,
        )
        return loss, {"loss": loss}, {}

    def project(self, params: PyTree, ctx: Context) -> PyTree:
        """The parameters with prototypes of norm 1."""
        kernel = params["prototypes"]["kernel"]
        return {**params, "prototypes": {"kernel": normalize_rows(kernel).astype(kernel.dtype)}}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """Prototypes that do not change in the first epochs."""
        is_prototype = path[0].key == "prototypes"
        return ParameterGroup(frozen_epochs=self.frozen_epochs if is_prototype else 0.0)


def _build(config: Config, modules: Modules) -> SwAV:
    options = options_of(config, SwAVConfig)
    return SwAV(
        modules.encoder,
        modules.head(last="none", last_bias=True),
        options.prototypes,
        config.model.projector_dim,
        options.temperature,
        options.epsilon,
        options.iterations,
        options.frozen_epochs,
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(options_of(config, SwAVConfig).prototypes),
    config=SwAVConfig,
    model={
        "norm_views": "joint",
        "projector_layers": 2,
        "projector_hidden": 2048,
        "projector_dim": 128,
        "projector_norm": True,
    },
    contrastive=True,
    cost=lambda config: StepCost(contrasts=False),
)
