"""Views of series against NumPy loops: resampling, noise, factors, masks, padding, keys."""

import dataclasses

import jax
import numpy as np
import pytest

from cssl_jax.augment.series import batched, policy
from cssl_jax.augment.series.policy import SeriesPolicy
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError
from tests.helpers.marks import slow

N, T, C, K = 5, 40, 2, 3
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(N, T, C)).cumsum(axis=1)
LENGTH = np.array([40, 31, 7, 2, 1], np.int32)
KEYS = example_key(3, 0, np.arange(N))
OFF = SeriesPolicy(**dict.fromkeys(policy.PROBABILITIES, (0.0,)))


def drawn(chosen, views=K, first=0):
    with jax.enable_x64(True):
        return jax.device_get(
            jax.jit(lambda keys: policy.sample_views(keys, chosen, views, first))(KEYS)
        )


def applied(chosen, size=T, values=VALUES, length=LENGTH):
    with jax.enable_x64(True):

        @jax.jit
        def views(values, length):
            parameters = policy.sample_views(KEYS, chosen, K, 0)
            examples = {"values": values, "length": length}
            return batched.apply_views(examples, parameters, policy=chosen, size=size)

        return jax.device_get(views(values, length))


def resampled(chosen, size=T):
    """Crop, permutation and time warp step by step, [N, K, size, C]."""
    parameters, found = drawn(chosen), np.zeros((N, K, size, C))
    for i, length in enumerate(LENGTH):
        kept = min(length, size)
        for view in range(K):
            one = {name: value[i, view] for name, value in parameters.items()}
            window = min(one["crop_length"] * (length - 1), kept - 1)
            start = one["crop_start"] * (length - 1 - window)
            for step in range(kept):
                place = step / (kept - 1) if kept > 1 else 0.0
                segment = min(int(place * chosen.segments), chosen.segments - 1)
                rest = place * chosen.segments - segment
                place = (one["order"][segment] + rest) / chosen.segments
                stretch = min(int(place * 4), 3)
                passed = one["warp"][:stretch].sum() + (place * 4 - stretch) * one["warp"][stretch]
                position = start + min(passed / 4, 1.0) * window
                for channel in range(C):
                    known = np.arange(length)
                    found[i, view, step, channel] = np.interp(
                        position, known, VALUES[i, :length, channel]
                    )
    return found


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, T),
        slow({"crop": (1.0,), "crop_length": (0.3, 0.8)}, T),
        ({"crop": (1.0,), "crop_length": (0.3, 0.8)}, 16),
        slow({"warp": (1.0,), "warp_strength": 0.7}, T),
        slow({"permutation": (1.0,), "segments": 3}, T),
        ({"crop": (0.5,), "warp": (0.5,), "permutation": (0.5,)}, 25),
    ],
    ids=["nothing", "crop", "crop to 16 steps", "warp", "permutation", "all in 25 steps"],
)
def test_steps_are_resampled_as_by_hand(changes, size):
    chosen = dataclasses.replace(OFF, **changes)
    found = applied(chosen, size)
    np.testing.assert_allclose(found["values"], resampled(chosen, size), atol=1e-9)
    assert (found["length"] == np.minimum(LENGTH, size)[:, None]).all()


def test_a_policy_without_operations_keeps_the_series_to_the_bit():
    found = applied(OFF)
    for i, length in enumerate(LENGTH):
        for view in range(K):
            np.testing.assert_array_equal(found["values"][i, view, :length], VALUES[i, :length])
            assert not found["values"][i, view, length:].any()


def test_a_long_series_is_stretched_evenly_in_float32():
    steps = 200_000
    stretched = dataclasses.replace(OFF, crop=(1.0,), crop_length=(0.6, 0.6))

    @jax.jit
    def views(values):
        parameters = policy.sample_views(KEYS[:1], stretched, 1, 0)
        examples = {"values": values, "length": np.array([steps], np.int32)}
        return batched.apply_views(examples, parameters, policy=stretched, size=steps)["values"]

    found = np.asarray(views(np.arange(steps, dtype=np.float32)[None, :, None])).ravel()
    # Values and positions at the end are 1/64 of a step apart.
    np.testing.assert_allclose(np.diff(found.astype(np.float64)), 0.6, atol=4 / 64)


def test_noise_has_the_strength_of_the_policy_in_every_channel():
    long = np.concatenate([VALUES] * 60, axis=1) * [1.0, 100.0]
    length = np.full(N, long.shape[1], np.int32)
    chosen = dataclasses.replace(OFF, jitter=(1.0,), jitter_strength=0.25)
    found = applied(chosen, long.shape[1], long, length)["values"] - long[:, None]
    expected = 0.25 * long.std(axis=1)[:, None]
    np.testing.assert_allclose(found.std(axis=2), np.broadcast_to(expected, (N, K, C)), rtol=0.1)
    assert abs(np.corrcoef(found[0, 0, :, 0], found[0, 1, :, 0])[0, 1]) < 0.1


def test_a_scaling_has_one_factor_per_channel_and_view():
    chosen = dataclasses.replace(OFF, scaling=(1.0,), scaling_strength=0.3)
    ratio = applied(chosen)["values"][0] / VALUES[0]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))
    assert len(np.unique(ratio[:, 0])) == K * C


def test_a_mask_is_one_stretch_of_missing_values_within_the_series():
    chosen = dataclasses.replace(OFF, mask=(1.0,), mask_length=(0.3, 0.3))
    found = applied(chosen)
    for view in range(K):
        missing = np.isnan(found["values"][0, view]).all(axis=1)
        assert np.isnan(found["values"][0, view]).sum() == C * missing.sum()
        assert missing.sum() in (11, 12, 13)
        assert np.diff(np.flatnonzero(missing)).max() == 1
    assert not np.isnan(found["values"][2, :, 7:]).any()


def test_missing_values_stay_missing_and_do_not_spread():
    values = VALUES.copy()
    values[0, 10, 1] = np.nan
    found = applied(OFF, values=values)["values"][0]
    assert np.isnan(found[:, 10, 1]).all()
    assert np.isnan(found).sum() == K


def test_views_differ_repeat_and_depend_on_the_key_alone():
    first, again = applied(SeriesPolicy()), applied(SeriesPolicy())
    np.testing.assert_array_equal(first["values"], again["values"])
    flat = first["values"][0].reshape(K, -1)
    assert len(np.unique(np.nan_to_num(flat), axis=0)) == K
    alone = drawn(SeriesPolicy(), views=1, first=2)
    together = drawn(SeriesPolicy())
    for name, value in alone.items():
        np.testing.assert_array_equal(value[:, 0], together[name][:, 2])


def test_one_probability_per_view_is_that_of_the_view():
    chosen = dataclasses.replace(OFF, jitter=(1.0, 0.0, 1.0), mask=(0.0, 1.0, 0.0))
    parameters = drawn(chosen)
    assert (parameters["jitter"] > 0).tolist() == [[True, False, True]] * N
    assert (parameters["mask_length"] > 0).tolist() == [[False, True, False]] * N


def test_moments_skip_padding_and_missing_values():
    values = VALUES.copy()
    values[1, 3] = np.nan
    values[2, :, 0] = np.nan
    with jax.enable_x64(True):
        mean, std = jax.device_get(jax.jit(batched.moments)(values, LENGTH))
    for i, length in enumerate(LENGTH[:2]):
        np.testing.assert_allclose(mean[i, 0], np.nanmean(values[i, :length], axis=0))
        np.testing.assert_allclose(std[i, 0], np.nanstd(values[i, :length], axis=0))
    assert (mean[2, 0, 0], std[2, 0, 0]) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": (1.5,)}, r"augment.crop is \(1.5,\)"),
        ({"mask": ()}, r"augment.mask is \(\)"),
        ({"crop_length": (0.9, 0.5)}, r"augment.crop_length is \(0.9, 0.5\)"),
        ({"jitter_strength": -1.0}, "augment.jitter_strength is -1.0; give 0 or more"),
        ({"segments": 0}, "augment.segments is 0; give 1 or more"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SeriesPolicy(**changes)
