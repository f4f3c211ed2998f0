"""CPC (arXiv 1807.03748): the context of a series predicts its next steps."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import POSITIVE, Range
from cssl_jax.errors import UserError
from cssl_jax.losses.predictive import predictive_terms
from cssl_jax.methods.base import (
    Batch,
    Context,
    Method,
    PyTree,
    flat_views,
    mask_keys,
    run_module,
    split_variables,
)
from cssl_jax.methods.entry import LossCost, MethodEntry, Modules, StepCost, StepSizes, options_of
from cssl_jax.modalities.base import refuse_images
from cssl_jax.modalities.registry import modality_entry

# Steps of the input per output of an encoder, for the formulas of plan.
STRIDES = {"conv_gru": 4, "wave_gru": 160}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CPCConfig(MethodConfig):
    """The context of a series predicts its next steps among those of all series.

    Attributes:
        future_steps: Number of steps of the encoder's output that are predicted at every step.
        same_series: Add the other steps of the same series to the negatives, which by default are
            the same step of the other series.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"future_steps": POSITIVE}

    name: str = "cpc"
    future_steps: int = 4
    same_series: bool = False


class Predictor(nn.Module):
    """One linear map W_k per number k of steps into the future (eq. 3), without a bias.

    Attributes:
        future_steps: Number K of maps.
        width: Width d of a prediction.
    """

    future_steps: int
    width: int

    @nn.compact
    def __call__(self, contexts: jax.Array) -> jax.Array:
        """Predictions [n, K, T, d] from contexts [n, T, D]."""
        shape = (self.future_steps, contexts.shape[-1], self.width)
        # The variance of each map is that of its own inputs: the first axis counts the maps.
        init = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
        kernel = self.param("kernel", init, shape)
        return jnp.einsum("itc,kcd->iktd", contexts, kernel, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class CPC(Method):
    """The CPC objective.

    Attributes:
        encoder: Module from series to a dict with "latents" z [n, T, d], "contexts" c [n, T, D] and
            "steps", int32 [n], how many of the T steps count.
        future_steps: Number K of steps that are predicted.
        same_series: True if other steps of the same series are negatives too.
    """

    encoder: nn.Module
    future_steps: int = 4
    same_series: bool = False

    @property
    def views(self) -> dict[str, ViewGroup]:
        """One view per series."""
        return {"main": ViewGroup(1)}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises encoder and predictor; needs no mapped axis.

        Raises:
            UserError: The encoder has no contexts.
        """
        encoder_key, predictor_key = jax.random.split(key)
        rows = flat_views(batch["views"]["main"])
        encoder = self.encoder.init(encoder_key, rows)
        outputs = jax.eval_shape(self.encoder.apply, encoder, rows)
        if not {"latents", "contexts", "steps"} <= set(outputs):
            raise UserError(
                "method cpc predicts outputs of convolutions from the state of a recurrent network,"
                f" and {type(self.encoder).__name__} does not return both; give --model.encoder "
                "conv_gru"
            )
        shapes = outputs["contexts"], outputs["latents"]
        contexts, latents = (jnp.zeros(one.shape, one.dtype) for one in shapes)
        predictor = self._predictor(latents.shape[-1]).init(predictor_key, contexts)
        return split_variables({"encoder": encoder, "predictor": predictor})

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """{"contexts" [n, T, D], "latents" [n, T, d], "steps" [n]} of the one view."""
        train = ctx.train and not ctx.frozen_norm
        rows = flat_views(batch["views"]["main"])
        encoded, state = run_module(
            self.encoder, "encoder", params, model_state, rows, train, mask_keys(batch, 1)
        )
        latents = encoded["latents"]
        outputs = {
            "contexts": encoded["contexts"],
            "latents": latents,
            "steps": encoded["steps"].astype(latents.dtype),
        }
        return outputs, {**model_state, "encoder": state}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """InfoNCE of this device's predictions against the global batch."""
        predictor = self._predictor(outputs["latents"].shape[-1])
        weights = {"params": params["predictor"]}
        predictions: Any = predictor.apply(weights, outputs["contexts"])
        terms = predictive_terms(
            predictions,
            outputs["latents"],
            outputs["steps"].astype(jnp.int32),
            same_series=self.same_series,
            axis_name=ctx.axis_name,
        )
        metrics = {
            "loss": terms.loss,
            "contrastive_accuracy": terms.accuracy,
            "chance_level": terms.chance_level,
        }
        return terms.loss, metrics, {}

    def _predictor(self, width: int) -> Predictor:
        return Predictor(self.future_steps, width)


def _build(config: Config, modules: Modules) -> CPC:
    options = options_of(config, CPCConfig)
    return CPC(modules.encoder, options.future_steps, options.same_series)


def _check(config: Config) -> None:
    refuse_images(modality_entry(config.data.modality), "method cpc")


def _chance_level(config: Config) -> float:
    """Level for series of equal length without negatives of their own; a step logs its own."""
    return math.log(config.train.batch_size)


def _cost(config: Config) -> StepCost:
    options = options_of(config, CPCConfig)

    def loss(sizes: StepSizes) -> LossCost:
        n, width = sizes.batch // sizes.devices, sizes.features
        steps = -(-sizes.steps // STRIDES.get(config.model.encoder, 4))
        ahead = [steps - k for k in range(1, min(options.future_steps, steps - 1) + 1)]
        candidates = sizes.batch + options.same_series * steps
        predicted = options.future_steps * steps * width * width
        return LossCost(
            flops=3 * 2 * n * (predicted + width * candidates * sum(ahead)),
            gathered=4 * sizes.batch * steps * width,
            gathered_masks=sizes.batch * steps,
            all_reduce=4,  # the number of predictions
            metrics=3,
            parameters=options.future_steps * width * width,
        )

    return StepCost(views=1, contrasts=False, loss=loss)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=CPCConfig,
    check=_check,
    cost=_cost,
)
