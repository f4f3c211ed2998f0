"""The augmentation policy of series, and the draws of its parameters."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters, Policy, sample_each_view
from cssl_jax.errors import UserError

PROBABILITIES = ("crop", "warp", "permutation", "scaling", "jitter", "mask")
# Each draw has a fixed place in one row of uniform numbers: a policy changes no draw of another.
_SLOTS = (*PROBABILITIES, "crop_length", "crop_start", "mask_length", "mask_start")
WARP_KNOTS = 4  # number of stretches whose speed a time warp changes
# Purposes of the keys that are derived from the key of a view; 0 is the row of uniform numbers.
_WARP, _ORDER, _SCALING, _JITTER = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesPolicy(Policy):
    """Augmentation of series. A probability is one number for all views, or one for each view.

    Attributes:
        crop: Probability of the crop: a window of the series, stretched to the length of the view.
        crop_length: Smallest and largest length of the window, as fractions of the series.
        warp: Probability of the time warp, which changes the speed along the series.
        warp_strength: Standard deviation of the logarithm of the speed, over four stretches.
        permutation: Probability of the permutation of segments of equal length.
        segments: Number of segments.
        scaling: Probability of the scaling, one factor per channel.
        scaling_strength: Standard deviation of the factors around 1.
        jitter: Probability of the jitter, which adds normal noise to every value.
        jitter_strength: Standard deviation of the noise, as a fraction of that of the series in
            the same channel.
        mask: Probability of the mask: a stretch of the series is missing.
        mask_length: Smallest and largest length of the stretch, as fractions of the view.
    """

    crop: tuple[float, ...] = (1.0,)
    crop_length: tuple[float, float] = (0.5, 1.0)
    warp: tuple[float, ...] = (0.0,)
    warp_strength: float = 0.2
    permutation: tuple[float, ...] = (0.0,)
    segments: int = 4
    scaling: tuple[float, ...] = (0.5,)
    scaling_strength: float = 0.1
    jitter: tuple[float, ...] = (0.5,)
    jitter_strength: float = 0.05
    mask: tuple[float, ...] = (0.5,)
    mask_length: tuple[float, float] = (0.05, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop_length", "mask_length"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= 1.0:
                raise UserError(
                    f"augment.{name} is ({low}, {high}); give 0 < smallest <= largest <= 1"
                )
        for name in ("warp_strength", "scaling_strength", "jitter_strength"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"augment.{name} is {getattr(self, name)}; give 0 or more, finite")
        if self.segments < 1:
            raise UserError(f"augment.segments is {self.segments}; give 1 or more")

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return PROBABILITIES


def sample(
    key: jax.Array, policy: SeriesPolicy, view: jax.Array | int = 0, first: int = 0
) -> Parameters:
    """Draws the augmentation parameters of one view of one series.

    They depend neither on the length nor on the number of channels. An operation that is off in
    this draw gets neutral parameters.

    Args:
        key: uint32 [2], key of the example (``cssl_jax.data.sampler.example_key``).
        policy: Policy to draw from.
        view: Number of the view within its group, from 0; traced or concrete.
        first: Number of the group's first view among all views of the example.

    Returns:
        crop_length and crop_start (fractions of the series, and of the room that the window
        leaves); warp [WARP_KNOTS] (speeds with a mean of 1); order [segments] (int32, segment in
        each place); scaling and jitter (standard deviations); scaling_key and jitter_key (uint32
        [2]); mask_length and mask_start, as of the crop.
    """
    chex.assert_shape(key, (2,))
    view_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), first + view)
    drawn = jax.random.uniform(jax.random.fold_in(view_key, 0), (len(_SLOTS),), float)
    uniform: dict[str, jax.Array] = dict(zip(_SLOTS, drawn, strict=True))

    def happens(name: str) -> jax.Array:
        values = jnp.asarray(getattr(policy, name))
        chosen: jax.Array = uniform[name] < values[view if len(getattr(policy, name)) > 1 else 0]
        return chosen

    def between(slot: str) -> jax.Array:
        low, high = getattr(policy, slot)
        value: jax.Array = low + uniform[slot] * (high - low)
        return value

    speeds: jax.Array = jax.random.normal(jax.random.fold_in(view_key, _WARP), (WARP_KNOTS,), float)
    speeds = jnp.exp(policy.warp_strength * speeds * happens("warp"))
    order = jax.random.permutation(jax.random.fold_in(view_key, _ORDER), policy.segments)
    places = jnp.arange(policy.segments)
    return {
        "crop_length": jnp.where(happens("crop"), between("crop_length"), 1.0),
        "crop_start": uniform["crop_start"],
        "warp": speeds / jnp.mean(speeds),
        "order": jnp.where(happens("permutation"), order, places).astype(jnp.int32),
        "scaling": policy.scaling_strength * happens("scaling"),
        "scaling_key": jax.random.key_data(jax.random.fold_in(view_key, _SCALING)),
        "jitter": policy.jitter_strength * happens("jitter"),
        "jitter_key": jax.random.key_data(jax.random.fold_in(view_key, _JITTER)),
        "mask_length": jnp.where(happens("mask"), between("mask_length"), 0.0),
        "mask_start": uniform["mask_start"],
    }


def sample_views(keys: jax.Array, policy: SeriesPolicy, views: int, first: int = 0) -> Parameters:
    """Draws the parameters of every view of one group, for every series.

    Args:
        keys: uint32 [n, 2], keys of the examples.
        policy: Policy to draw from.
        views: Number of views per example in the group.
        first: Number of the group's first view among all views of an example.

    Returns:
        Parameters as in ``sample``, leaves [n, views, ...].
    """
    return sample_each_view(lambda key, view: sample(key, policy, view, first), keys, views)
