"""TS2Vec (arXiv 2106.10466): features of the steps that two overlapping crops share."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import BELOW_ONE, FRACTION, Range
from cssl_jax.errors import UserError
from cssl_jax.losses.hierarchical import hierarchical_terms
from cssl_jax.methods.base import (
    Batch,
    Context,
    Method,
    PyTree,
    StepOutputs,
    copied,
    flat_views,
    mask_keys,
    run_module,
    split_variables,
)
from cssl_jax.methods.entry import LossCost, MethodEntry, Modules, StepCost, StepSizes, options_of
from cssl_jax.modalities.base import refuse_images
from cssl_jax.modalities.registry import modality_entry

# Purposes of keys: of the step, and below the key of an example.
_OVERLAP, _CROPS, _STEPS = 1, 0x63726F70, 0x73746570
ASSUMED_STEPS = 64  # length of the overlap that the chance level before the first step is for


@dataclasses.dataclass(frozen=True, kw_only=True)
class TS2VecConfig(MethodConfig):
    """Two overlapping crops of every series, contrasted step by step at several time scales.

    Attributes:
        mask_rate: Probability with which each step of a crop is hidden from the encoder.
        instance_weight: Weight of the contrast with other series; the rest of 1 is the weight of
            the contrast with other steps of the same series.
        average: Evaluate and export the average of the encoder's weights over all steps, as the
            authors' code does, instead of the last weights.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "mask_rate": BELOW_ONE,
        "instance_weight": FRACTION,
    }

    name: str = "ts2vec"
    mask_rate: float = 0.5
    instance_weight: float = 0.5
    average: bool = True


class Crops(NamedTuple):
    """Two crops of every series, which overlap; int32 [n] each.

    Attributes:
        first: First step of the first crop.
        overlap: First step of the overlap, and of the second crop.
        steps: Number of steps of the overlap, where the first crop ends.
        last: Step after the last one of the second crop.
    """

    first: jax.Array
    overlap: jax.Array
    steps: jax.Array
    last: jax.Array


def draw_crops(keys: jax.Array, length: jax.Array, fraction: jax.Array) -> Crops:
    """Draws two overlapping crops of every series (section 3.2).

    The number of steps of the overlap is uniform on 2 to the length of the series. The authors'
    code draws it once per batch. Here ``fraction`` is drawn once per batch, and gives the number
    for series of any length. The place of the overlap and the two outer ends are uniform on what
    remains, for every series apart; the authors' code shifts one draw per batch.

    Args:
        keys: Keys of the examples, uint32 [n, 2].
        length: Number of steps of each series, int32 [n].
        fraction: Place of the overlap's length between the smallest and the largest, in [0, 1).
    """

    def below(draw: jax.Array, count: jax.Array) -> jax.Array:
        """Whole number from 0 to ``count`` - 1; rounding could give ``count``."""
        return jnp.minimum((draw * count).astype(jnp.int32), count - 1)

    def uniform(key: jax.Array) -> jax.Array:
        wrapped = jax.random.wrap_key_data(key, impl="threefry2x32")
        # float32 in runs of any precision: the draws are then the same.
        return jax.random.uniform(jax.random.fold_in(wrapped, _CROPS), (3,), jnp.float32)

    draws = jax.vmap(uniform)(keys)
    smallest = jnp.minimum(length, 2)
    count = smallest + below(fraction, length - smallest + 1)
    overlap = below(draws[:, 0], length - count + 1)
    first = below(draws[:, 1], overlap + 1)
    last = overlap + count + below(draws[:, 2], length - overlap - count + 1)
    return Crops(first, overlap, count, last)


def shifted(x: jax.Array, start: jax.Array) -> jax.Array:
    """Steps of x [n, T, C] from ``start`` [n] on, moved to step 0; then the last one repeats."""
    steps = jnp.minimum(start[:, None] + jnp.arange(x.shape[1]), x.shape[1] - 1)
    return jnp.take_along_axis(x, steps[..., None], axis=1)


@dataclasses.dataclass(frozen=True)
class TS2Vec(Method):
    """The TS2Vec objective.

    Attributes:
        encoder: Module from series to a dict with "tokens" [n, T, D], a feature vector per step.
        mask_rate: Probability that a step of a crop is omitted (``keep`` of the encoder).
        instance_weight: Weight of the instance loss; see ``hierarchical_contrast``.
        average: True to evaluate the average of the weights over all steps.
    """

    encoder: nn.Module
    mask_rate: float = 0.5
    instance_weight: float = 0.5
    average: bool = True

    @property
    def views(self) -> dict[str, ViewGroup]:
        """One view, which the method crops twice."""
        return {"main": ViewGroup(1)}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises the encoder; needs no mapped axis.

        Raises:
            UserError: The encoder has no feature vector per step.
        """
        rows = flat_views(batch["views"]["main"])
        encoder = self.encoder.init(key, rows)
        outputs = jax.eval_shape(self.encoder.apply, encoder, rows)
        if "tokens" not in outputs:
            raise UserError(
                f"method ts2vec contrasts the steps of a series, and {type(self.encoder).__name__} "
                "has no features of each step; give --model.encoder dilated"
            )
        return split_variables({"encoder": encoder})

    def start(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The first average of the weights; {} without one."""
        return {"encoder": copied(params["encoder"])} if self.average else {}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """{"tokens" [n, 2, T, D] of the overlap in both crops, "count" [n] of its steps}."""
        series, n = flat_views(batch["views"]["main"]), len(batch["key"])
        # One length of the overlap per batch: all of its steps then have all negatives.
        fraction = jax.random.uniform(ctx.key(_OVERLAP), (), jnp.float32)
        crops = draw_crops(batch["key"], series["length"], fraction)
        values = [shifted(series["values"], start) for start in (crops.first, crops.overlap)]
        lengths = [crops.overlap + crops.steps - crops.first, crops.last - crops.overlap]
        both = {"values": jnp.stack(values, axis=1), "length": jnp.stack(lengths, axis=1)}
        train = ctx.train and not ctx.frozen_norm
        keys, keep = mask_keys(batch, 2), None
        if train and self.mask_rate > 0:
            keep = _kept_steps(keys, self.mask_rate, both["values"].shape[2])
        encoded, state = run_module(
            self.encoder, "encoder", params, model_state, flat_views(both), train, keys, keep
        )
        tokens = encoded["tokens"].reshape(n, 2, -1, encoded["tokens"].shape[-1])
        first = shifted(tokens[:, 0], crops.overlap - crops.first)
        outputs = {
            "tokens": jnp.stack([first, tokens[:, 1]], axis=1),
            "count": crops.steps.astype(tokens.dtype),
        }
        return outputs, {"encoder": state}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Hierarchical loss of this device's series against the global batch."""
        tokens = outputs["tokens"]
        chex.assert_shape(tokens, (None, 2, None, None))
        terms = hierarchical_terms(
            tokens[:, 0],
            tokens[:, 1],
            outputs["count"].astype(jnp.int32),
            instance_weight=self.instance_weight,
            axis_name=ctx.axis_name,
        )
        metrics = {
            "loss": terms.loss,
            "contrastive_accuracy": terms.accuracy,
            "instance_loss": terms.instance,
            "temporal_loss": terms.temporal,
            "chance_level": terms.chance_level,
        }
        return terms.loss, metrics, {}

    def after_update(
        self, params: PyTree, method_state: PyTree, step: StepOutputs, ctx: Context
    ) -> PyTree:
        """The average of the initial weights and those after each update, all of equal weight."""
        if not self.average:
            return method_state

        def averaged(mean: jax.Array, new: jax.Array) -> jax.Array:
            return mean + (new - mean) / (ctx.step + 2).astype(mean.dtype)

        average = jax.tree.map(averaged, method_state["encoder"], params["encoder"])
        return {"encoder": average}

    def evaluated(
        self, params: PyTree, model_state: PyTree, method_state: PyTree
    ) -> dict[str, PyTree]:
        """The encoder, with the average of its weights if there is one."""
        weights = method_state if self.average else params
        return {"params": {"encoder": weights["encoder"]}, "model_state": model_state}


def _kept_steps(keys: jax.Array | None, rate: float, steps: int) -> jax.Array:
    """Bool [rows, steps], False with probability ``rate``, drawn from a key per row."""
    assert keys is not None  # a batch to train on has keys

    def kept(key: jax.Array) -> Any:
        wrapped = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), _STEPS)
        return jax.random.bernoulli(wrapped, jnp.float32(1 - rate), (steps,))

    masks: jax.Array = jax.vmap(kept)(keys)
    return masks


def _build(config: Config, modules: Modules) -> TS2Vec:
    options = options_of(config, TS2VecConfig)
    if options.mask_rate > 0 and not getattr(modules.encoder, "encodes_omitted", False):
        raise UserError(
            f"method.mask_rate is {options.mask_rate}, and encoder {config.model.encoder!r} has no "
            "features of a step that is hidden from it; give --model.encoder dilated, or "
            "--method.mask-rate 0"
        )
    return TS2Vec(
        modules.encoder,
        mask_rate=options.mask_rate,
        instance_weight=options.instance_weight,
        average=options.average,
    )


def _check(config: Config) -> None:
    refuse_images(modality_entry(config.data.modality), "method ts2vec")


def _chance_level(config: Config) -> float:
    """Level for an overlap of ``ASSUMED_STEPS``; every step logs that of its own overlap."""
    weight = options_of(config, TS2VecConfig).instance_weight
    lengths = [ASSUMED_STEPS >> level for level in range(ASSUMED_STEPS.bit_length())]
    temporal = sum(math.log(2 * length - 1) for length in lengths) / len(lengths)
    return weight * math.log(2 * config.train.batch_size - 1) + (1 - weight) * temporal


def _loss_cost(sizes: StepSizes) -> LossCost:
    """Cost of the hierarchical loss, of both contrasts at every level."""
    n, levels = sizes.batch // sizes.devices, range(sizes.steps.bit_length())
    lengths = [sizes.steps >> level for level in levels]
    pairs = sum(2 * n * 2 * sizes.batch * t + n * (2 * t) ** 2 for t in lengths)
    rows = 2 * sizes.batch * sum(lengths)
    return LossCost(
        flops=3 * 2 * sizes.features * pairs,
        gathered=4 * rows * sizes.features,
        gathered_masks=sizes.batch * sum(lengths),
        all_reduce=4 * len(lengths),  # the number of steps that count, per level
        metrics=5,
    )


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=TS2VecConfig,
    check=_check,
    cost=lambda config: StepCost(contrasts=False, loss=_loss_cost),
)
