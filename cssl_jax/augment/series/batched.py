"""Applies sampled parameters to batches of series, in compiled JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.series.policy import WARP_KNOTS, SeriesPolicy

Series = dict[str, jax.Array]  # {"values": [..., T, C], "length": int32 [...]}


def step_mask(length: jax.Array, steps: int) -> jax.Array:
    """Bool [..., steps], True at the steps before the length, int [...]."""
    return jnp.arange(steps) < length[..., None]


def known_mask(values: jax.Array, length: jax.Array) -> jax.Array:
    """Bool [..., T, C], True at the values that are neither padded nor missing."""
    return step_mask(length, values.shape[-2])[..., None] & ~jnp.isnan(values)


def moments(values: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the values that are neither padded nor missing.

    Args:
        values: float [..., T, C]; NaN is a missing value.
        length: int [...], number of steps.

    Returns:
        (mean, standard deviation), float [..., 1, C] each; 0 and 1 for a channel without values.
    """
    counts = known_mask(values, length)
    number = jnp.maximum(counts.sum(axis=-2, keepdims=True), 1)
    mean = jnp.where(counts, values, 0).sum(axis=-2, keepdims=True) / number
    square = jnp.where(counts, jnp.square(values - mean), 0).sum(axis=-2, keepdims=True) / number
    # The inner where keeps the gradient of the unused square root finite.
    return mean, jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 1)


def apply_views(examples: Series, drawn: Parameters, *, policy: SeriesPolicy, size: int) -> Series:
    """Computes every view of every series.

    Args:
        examples: values float [n, T, C], NaN for missing values, and length int32 [n], at least 1.
        drawn: Parameters, leaves [n, k, ...]; see ``policy.sample_views``.
        policy: Policy of the parameters; operations that it does not use are not compiled.
        size: Number of steps of the views, at most which a series is kept.

    Returns:
        values float [n, k, size, C] and length int32 [n, k]; steps from the length on are 0.
    """

    def one(example: Series, parameters: Parameters) -> Series:
        return _view(example["values"], example["length"], parameters, policy, size)

    of_example = jax.vmap(one, in_axes=(None, 0))
    views: Series = jax.vmap(of_example)(examples, drawn)
    return views


def _view(
    values: jax.Array, length: jax.Array, drawn: Parameters, policy: SeriesPolicy, size: int
) -> Series:
    """One view: values [T, C] -> {"values": [size, C], "length": []}."""
    kept = jnp.minimum(length, size)
    x = _interpolate(values, *_positions(length, kept, drawn, policy, size))
    if policy.uses("jitter"):
        key = jax.random.wrap_key_data(drawn["jitter_key"], impl="threefry2x32")
        noise = jax.random.normal(key, x.shape, x.dtype)
        x = x + drawn["jitter"].astype(x.dtype) * moments(values, length)[1] * noise
    if policy.uses("scaling"):
        key = jax.random.wrap_key_data(drawn["scaling_key"], impl="threefry2x32")
        factor = jax.random.normal(key, x.shape[-1:], x.dtype)
        x = x * (1 + drawn["scaling"].astype(x.dtype) * factor)
    if policy.uses("mask"):
        width = drawn["mask_length"] * kept
        start = drawn["mask_start"] * (kept - width)
        steps = jnp.arange(size)
        x = jnp.where(((steps >= start) & (steps < start + width))[:, None], jnp.nan, x)
    return {"values": jnp.where(step_mask(kept, size)[:, None], x, 0), "length": kept}


def _positions(
    length: jax.Array, kept: jax.Array, drawn: Parameters, policy: SeriesPolicy, size: int
) -> tuple[jax.Array, jax.Array]:
    """Position in the series of every step of the view, within [0, length - 1].

    Returns:
        Whole steps int32 [size], and fractions of a step [size], from 0 to below 1.
    """
    dtype = drawn["crop_length"].dtype
    last = length.astype(dtype) - 1
    # A window is not longer than a view: otherwise steps would be left out.
    window = jnp.minimum(drawn["crop_length"] * last, jnp.maximum(kept.astype(dtype) - 1, 0))
    first = drawn["crop_start"] * (last - window)
    if policy.uses("permutation") or policy.uses("warp"):
        offset, roundings = _places(kept, drawn, policy, size, dtype) * window, 16
    else:
        # Whole steps where nothing is stretched: the factor is 1.
        steps = jnp.minimum(jnp.arange(size, dtype=dtype), jnp.maximum(kept - 1, 0))
        offset, roundings = steps * (window / jnp.maximum(kept - 1, 1)), 4
    # Whole steps and fractions are kept apart: in float32 their sum has few digits behind the
    # point in a long series, 1/4 of a step at 4 million steps.
    whole = jnp.floor(first)
    offset = offset + (first - whole)
    # Rounding must not move a step off its value: beside a missing one it would be missing too.
    nearest, rounding = jnp.round(offset), roundings * jnp.finfo(dtype).eps * kept
    offset = jnp.where(jnp.abs(offset - nearest) <= rounding, nearest, offset)
    lower = jnp.floor(offset)
    return (whole + lower).astype(jnp.int32), offset - lower


def _places(
    kept: jax.Array, drawn: Parameters, policy: SeriesPolicy, size: int, dtype: Any
) -> jax.Array:
    """Place in its window of every step of the view, [size], within [0, 1]."""
    # Place within the view, from 0 for the first step to 1 for the last.
    place = jnp.arange(size, dtype=dtype) / jnp.maximum(kept - 1, 1)
    place = jnp.minimum(place, 1.0)
    if policy.uses("permutation"):
        scaled = place * policy.segments
        segment = jnp.minimum(scaled.astype(jnp.int32), policy.segments - 1)
        place = (drawn["order"][segment] + scaled - segment) / policy.segments
    if policy.uses("warp"):
        scaled = place * WARP_KNOTS
        stretch = jnp.minimum(scaled.astype(jnp.int32), WARP_KNOTS - 1)
        before = jnp.cumsum(drawn["warp"]) - drawn["warp"]
        place = (before[stretch] + (scaled - stretch) * drawn["warp"][stretch]) / WARP_KNOTS
        place = jnp.clip(place, 0.0, 1.0)  # rounding of the sum of the speeds
    return place


def _interpolate(values: jax.Array, lower: jax.Array, fraction: jax.Array) -> jax.Array:
    """Linear interpolation of values [T, C] at lower + fraction, [size] each -> [size, C].

    A position on a step has exactly the value of that step; between a value and a missing one the
    result is missing.
    """
    lower = jnp.clip(lower, 0, len(values) - 1)
    upper = jnp.minimum(lower + 1, len(values) - 1)
    part = fraction.astype(values.dtype)[:, None]
    between = (1 - part) * values[lower] + part * values[upper]
    return jnp.where(part == 0, values[lower], between)
