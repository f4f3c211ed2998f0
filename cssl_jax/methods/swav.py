"""SwAV (arXiv 2006.09882): each view predicts the prototypes that the other view is assigned to."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cssl_jax.config import Config
from cssl_jax.config.ranges import NOT_NEGATIVE, POSITIVE, Range
from cssl_jax.losses.core.similarity import normalize_rows, product
from cssl_jax.losses.swav import ASSIGNED, swapped_prediction
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs
from cssl_jax.methods.core.multi_crop import (
    MultiCrop,
    MultiCropConfig,
    local_cost,
    local_group,
)
from cssl_jax.methods.core.queue import enqueue, start_queue
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.methods.parameter_group import ParameterGroup

QUEUES = ("queue1", "queue2")
_PROTOTYPES = 0x70726F74  # the prototypes' key is folded with it: the other keys stay as they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAVConfig(MultiCropConfig):
    """SwAV: assignments of the batch to prototypes in equal parts, predicted from the other views.

    Attributes:
        prototypes: Number of prototypes K. A batch with fewer images than prototypes, its queue
            included, cannot use all of them equally.
        temperature: Temperature that divides the cosines in the predictions.
        epsilon: Smoothness of the assignments.
        iterations: Number of pairs of scalings of Sinkhorn's algorithm.
        frozen_epochs: Number of epochs, fractions allowed, in which the prototypes stay as drawn.
        queue: Number of earlier projections per view that are assigned along with the batch; 0:
            none.
        queue_epochs: Number of epochs, fractions allowed, before the queue takes part; it is filled
            from the start, and no random row takes part.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        **MultiCropConfig.ranges,
        "prototypes": POSITIVE,
        "temperature": POSITIVE,
        "epsilon": POSITIVE,
        "iterations": POSITIVE,
        "frozen_epochs": NOT_NEGATIVE,
        "queue": NOT_NEGATIVE,
        "queue_epochs": NOT_NEGATIVE,
    }

    name: str = "swav"
    prototypes: int = 512
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    frozen_epochs: float = 1.0
    queue: int = 0
    queue_epochs: float = 15.0


@dataclasses.dataclass(frozen=True)
class SwAV(MultiCrop):
    """The objective of SwAV: two global views are assigned, all views predict.

    The prototypes are the parameter "prototypes", rows of norm 1 after every update. The
    method_state has a queue of projections for each global view, if there are queues.

    Attributes:
        prototypes: Number of prototypes K.
        width: Width d of a projection.
        temperature: Temperature of the predictions.
        epsilon: Smoothness of the assignments.
        iterations: Number of pairs of scalings.
        frozen_epochs: Number of epochs in which the prototypes do not change.
        queue: Number of rows of each queue; 0: there is none.
        queue_epochs: Number of epochs before the queues take part.
    """

    prototypes: int
    width: int
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    frozen_epochs: float = 1.0
    queue: int = 0
    queue_epochs: float = 15.0

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules, and prototypes in random directions."""
        params, model_state = super().init(key, batch)
        drawn = jax.random.normal(
            jax.random.fold_in(key, _PROTOTYPES), (self.prototypes, self.width), jnp.float32
        )
        return {**params, "prototypes": {"kernel": normalize_rows(drawn)}}, model_state

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """A queue per global view, filled with random directions; {} without queues."""
        if not self.queue:
            return {}
        return {
            name: start_queue(jax.random.key(i), self.queue, self.width)
            for i, name in enumerate(QUEUES)
        }

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples, whose assignments depend on the global batch."""
        kernel = params["prototypes"]["kernel"]
        queues = [method_state[name]["rows"] for name in QUEUES if name in method_state]
        loss = swapped_prediction(
            _scores(outputs, kernel),
            temperature=self.temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
            axis_name=ctx.axis_name,
            queues=_scores(jnp.stack(queues), kernel) if queues else None,
            queue_counts=self._queue_counts(len(outputs), ctx),
        )
        return loss, {"loss": loss}, {}

    def _queue_counts(self, rows: int, ctx: Context) -> jax.Array:
        """Whether the queues take part: their epochs are over, and no random row is left."""
        devices = 1 if ctx.axis_name is None else jax.lax.axis_size(ctx.axis_name)
        filled = -(-self.queue // (rows * devices))
        return ctx.step >= max(round(self.queue_epochs * ctx.steps_per_epoch), filled)

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The queues with the projections of the step's global views."""
        if not self.queue:
            return method_state
        rows = ctx.global_rows(step.outputs[:, :ASSIGNED])
        return {name: enqueue(method_state[name], rows[:, i]) for i, name in enumerate(QUEUES)}

    def project(self, params: PyTree, ctx: Context) -> PyTree:
        """The parameters with prototypes of norm 1."""
        kernel = params["prototypes"]["kernel"]
        return {**params, "prototypes": {"kernel": normalize_rows(kernel).astype(kernel.dtype)}}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """Prototypes that do not change in the first epochs."""
        is_prototype = path[0].key == "prototypes"
        return ParameterGroup(frozen_epochs=self.frozen_epochs if is_prototype else 0.0)


def _scores(rows: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Cosines of rows [..., d] and prototypes [K, d] of norm 1, [..., K]."""
    return product(normalize_rows(rows), prototypes.T)


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
        options.queue,
        options.queue_epochs,
        local=local_group(config),
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
    cost=lambda config: StepCost(
        contrasts=False,
        local=local_cost(config),
        prototypes=options_of(config, SwAVConfig).prototypes,
        metrics=1,
        scaled=ASSIGNED * options_of(config, SwAVConfig).iterations,
    ),
)
