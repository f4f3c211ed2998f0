"""DINO (arXiv 2104.14294): a student predicts the centred, sharpened scores of its own average."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.config import Config
from cssl_jax.config.ranges import FRACTION, NOT_NEGATIVE, POSITIVE, Range
from cssl_jax.losses.core.similarity import normalize_rows, product
from cssl_jax.losses.dino import SINKHORN_ITERATIONS, self_distillation
from cssl_jax.losses.koleo import koleo
from cssl_jax.methods.base import Batch, Context, PyTree, StepOutputs, copied
from cssl_jax.methods.core.momentum import Momentum, follow, start_copy, without_masks
from cssl_jax.methods.core.multi_crop import (
    MultiCrop,
    MultiCropConfig,
    local_cost,
    local_group,
)
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.methods.parameter_group import ParameterGroup

_PROTOTYPES = 0x64696E6F  # the prototypes' key is folded with it: the other keys stay as they are
_STD = 0.02  # of the initial prototypes, as of all weights of the authors' head


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOConfig(MultiCropConfig):
    """DINO: the scores of a momentum copy for K prototypes, predicted from all other views.

    Attributes:
        prototypes: Number of prototypes K.
        temperature: Temperature that divides the student's scores.
        target_temperature: Temperature of the teacher's scores at the start of the run.
        target_temperature_end: Temperature of the teacher's scores after the warm-up; higher values
            are unstable.
        target_warmup_epochs: Number of epochs, fractions allowed, in which it rises along a line.
        centring: What keeps one prototype from taking all images: the running "mean" of the
            teacher's scores is subtracted, or "sinkhorn" divides the prototypes evenly among the
            batch, as DINOv2 does.
        centre_momentum: Fraction of the centre that survives a step.
        koleo_weight: Weight of the KoLeo regulariser on the features of each global view, which
            spreads them apart; DINOv2 takes 0.1.
        momentum: Momentum of the copy at the start of the run.
        momentum_end: Momentum of the copy at the end of the run, reached along half a cosine.
        frozen_epochs: Number of epochs, fractions allowed, in which the prototypes stay as drawn.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        **MultiCropConfig.ranges,
        "prototypes": POSITIVE,
        "temperature": POSITIVE,
        "target_temperature": POSITIVE,
        "target_temperature_end": POSITIVE,
        "target_warmup_epochs": NOT_NEGATIVE,
        "centre_momentum": FRACTION,
        "koleo_weight": NOT_NEGATIVE,
        "momentum": FRACTION,
        "momentum_end": FRACTION,
        "frozen_epochs": NOT_NEGATIVE,
    }

    name: str = "dino"
    prototypes: int = 4096
    temperature: float = 0.1
    target_temperature: float = 0.04
    target_temperature_end: float = 0.07
    target_warmup_epochs: float = 30.0
    centring: Literal["mean", "sinkhorn"] = "mean"
    centre_momentum: float = 0.9
    koleo_weight: float = 0.0
    momentum: float = 0.996
    momentum_end: float = 1.0
    frozen_epochs: float = 1.0


@dataclasses.dataclass(frozen=True)
class DINO(MultiCrop):
    """The objective of DINO; the copy is the teacher, and is evaluated (sec. 3.1 and app. A).

    The prototypes are the parameter "prototypes", whose rows are divided by their norm where they
    are used: weight normalisation with the scale 1. The method_state has the copy of all modules
    and "centre", the running mean of the teacher's scores, which the loss of a step reads before
    the step's scores enter it. The loss is a mean over examples, but for the two parts of DINOv2
    (arXiv 2304.07193, sec. 4), which compare the examples of the global batch: ``sinkhorn`` in
    place of the centre, and ``koleo`` on the encoder's features.

    Attributes:
        prototypes: Number of prototypes K.
        width: Width d of a projection.
        options: Temperatures, their warm-up, the centre's momentum and the frozen epochs.
        momentum: Momentum of the copy.
    """

    prototypes: int
    width: int
    options: DINOConfig
    momentum: Momentum

    @property
    def separable(self) -> bool:  # type: ignore[override]
        """True if no part of the loss compares examples."""
        return self.options.centring == "mean" and not self.options.koleo_weight

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules, and prototypes in random directions."""
        params, model_state = super().init(key, batch)
        drawn = jax.random.normal(
            jax.random.fold_in(key, _PROTOTYPES), (self.prototypes, self.width), jnp.float32
        )
        return {**params, "prototypes": {"kernel": _STD * drawn}}, model_state

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The copy {"params", "model_state"} of all modules, and the centre 0."""
        copy = start_copy(params, model_state)
        copy["params"]["prototypes"] = copied(params["prototypes"])
        kernel = params["prototypes"]["kernel"]
        return {**copy, "centre": jnp.zeros(self.prototypes, kernel.dtype)}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections [n, 2 + L, d]; with KoLeo, the features [n, 2, D] of global views too."""
        if not self.options.koleo_weight:
            return super().encode(params, model_state, method_state, batch, ctx)
        features, projections, state = self.features_and_projections(
            params, model_state, batch, ctx
        )
        projections, state = self.with_local(projections, params, state, batch, ctx)
        return {"projections": projections, "features": features}, state

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections of the copy for the global views [n, 2, d], its next running statistics."""
        copy = dataclasses.replace(self, encoder=without_masks(self.encoder))
        return copy.project_views(method_state["params"], method_state["model_state"], batch, ctx)

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples; carries the mean of the teacher's scores."""
        teacher = lax.stop_gradient(
            _scores(examples["targets"], method_state["params"]["prototypes"]["kernel"])
        )
        even, spread = self.options.centring == "sinkhorn", self.options.koleo_weight > 0
        projections = outputs["projections"] if spread else outputs
        loss, metrics = self_distillation(
            _scores(projections, params["prototypes"]["kernel"]),
            teacher,
            None if even else lax.stop_gradient(method_state["centre"]),
            temperature=self.options.temperature,
            target_temperature=self.target_temperature(ctx),
            axis_name=ctx.axis_name,
        )
        mean = jnp.mean(teacher, axis=(0, 1))
        mean = mean if ctx.axis_name is None else lax.pmean(mean, ctx.axis_name)
        if spread:
            by_view = jnp.moveaxis(outputs["features"], 1, 0)
            first, second = (koleo(rows, axis_name=ctx.axis_name) for rows in by_view)
            metrics["koleo"] = first + second
            loss += self.options.koleo_weight * (first + second)
        return loss, {"loss": loss, **metrics}, {"scores": mean}

    def target_temperature(self, ctx: Context) -> jax.Array:
        """Temperature of the teacher in this step, float scalar: a line, then constant."""
        start, end = self.options.target_temperature, self.options.target_temperature_end
        steps = round(self.options.target_warmup_epochs * ctx.steps_per_epoch)
        step = jnp.asarray(ctx.step, jnp.result_type(float))
        return start + (end - start) * jnp.minimum(step / steps, 1) if steps else end + 0 * step

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The copy after it has followed the parameters, and the centre with the step's scores."""
        rate = self.momentum.rate(ctx.step, ctx.total_steps)
        copy = {name: method_state[name] for name in ("params", "model_state")}
        centre, kept = method_state["centre"], self.options.centre_momentum
        scores = step.carry["scores"].astype(centre.dtype)
        return {
            **follow(copy, params, step.target_state, rate),
            "centre": kept * centre + (1 - kept) * scores,
        }

    def evaluated(
        self, params: PyTree, model_state: PyTree, method_state: PyTree
    ) -> dict[str, PyTree]:
        """The copy."""
        return {name: method_state[name] for name in ("params", "model_state")}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """Prototypes that do not change in the first epochs."""
        is_prototype = path[0].key == "prototypes"
        return ParameterGroup(frozen_epochs=self.options.frozen_epochs if is_prototype else 0.0)


def _scores(rows: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Cosines of rows [..., d] and prototypes [K, d], [..., K]."""
    return product(normalize_rows(rows), normalize_rows(prototypes).T)


def _build(config: Config, modules: Modules) -> DINO:
    options = options_of(config, DINOConfig)
    return DINO(
        modules.encoder,
        modules.head(last="none", last_bias=True, activation="gelu", initialisation="trunc02"),
        options.prototypes,
        config.model.projector_dim,
        options,
        Momentum(options.momentum, options.momentum_end),
        local=local_group(config),
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=lambda config: math.log(options_of(config, DINOConfig).prototypes),
    config=DINOConfig,
    model={
        "norm_views": "joint",
        "projector_layers": 3,
        "projector_hidden": 2048,
        "projector_dim": 256,
        "projector_norm": False,
    },
    contrastive=True,
    cost=lambda config: StepCost(
        targets=2,
        contrasts=False,
        local=local_cost(config),
        prototypes=options_of(config, DINOConfig).prototypes,
        averaged=2 * options_of(config, DINOConfig).prototypes,
        metrics=4 if options_of(config, DINOConfig).koleo_weight else 3,
        spread=2 if options_of(config, DINOConfig).koleo_weight else 0,
        scaled=SINKHORN_ITERATIONS if options_of(config, DINOConfig).centring == "sinkhorn" else 0,
    ),
)
