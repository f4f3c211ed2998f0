"""Sampled parameters: their distributions, and the inputs that a draw may depend on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cssl_jax.augment.image.batched import blur_radius
from cssl_jax.augment.image.policy import PROBABILITIES, ImagePolicy, sample, sample_views
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError

N = 20_000
KEYS = example_key(7, np.uint32(3), np.arange(N))
draw = jax.jit(sample_views, static_argnames=("policy", "views"))

# Every operation occurs, with different probabilities in the two views.
POLICY = ImagePolicy(
    crop=(0.9, 0.3),
    vertical_flip=(0.1,),
    affine=(0.6, 0.2),
    rotation=30.0,
    translation=0.2,
    scaling=(0.5, 1.5),
    shear=15.0,
    jitter=(0.8, 0.4),
    jitter_strength=0.5,
    saturation=2.5,
    blur=(1.0, 0.1),
    solarize=(0.0, 0.2),
)


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, draw(KEYS, POLICY, 2))


def happened(drawn):
    """Operations that the drawn parameters apply, bool [N, 2] by name."""
    on = {name: drawn[name] for name in PROBABILITIES if name in drawn}
    return {
        **on,
        "affine": drawn["rotation"] != 0,
        "jitter": drawn["brightness"] != 1,
        "blur": drawn["blur_sigma"] > 0,
    }


def assert_uniform(values, low, high):
    values = np.asarray(values, float)
    assert values.min() >= low - 1e-6  # float32
    assert values.max() <= high + 1e-6
    # The seed is fixed, so the test passes always or never; 1e-3 makes a chance failure unlikely.
    assert scipy.stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", PROBABILITIES)
def test_an_operation_occurs_with_its_probability_in_each_view(drawn, name):
    probabilities = getattr(POLICY, name) * (2 // len(getattr(POLICY, name)))
    for view, p in enumerate(probabilities):
        times = int(happened(drawn)[name][:, view].sum())
        assert scipy.stats.binomtest(times, N, p).pvalue > 1e-3


def test_crop_candidates_are_uniform_in_area_and_log_ratio(drawn):
    assert drawn["crop_area"].shape == (N, 2, 10)
    for candidate in (0, 9):
        assert_uniform(drawn["crop_area"][..., candidate].ravel(), 0.08, 1.0)
        log_ratio = drawn["crop_log_ratio"][..., candidate].ravel()
        assert_uniform(log_ratio, math.log(3 / 4), math.log(4 / 3))
    for name in ("crop_y", "crop_x"):
        assert drawn[name].max() < 1
        assert_uniform(drawn[name].ravel(), 0, 1)


def test_affine_parameters_are_uniform_and_the_zoom_log_uniform(drawn):
    on = happened(drawn)["affine"]
    assert_uniform(np.degrees(drawn["rotation"][on]), -30, 30)
    assert_uniform(np.degrees(drawn["shear"][on]), -15, 15)
    assert_uniform(drawn["translation"][on].ravel(), -0.2, 0.2)
    assert_uniform(np.log(drawn["scaling"][on]), math.log(0.5), math.log(1.5))


def test_jitter_factors_are_uniform_about_one_and_never_negative(drawn):
    on = happened(drawn)["jitter"]
    assert_uniform(drawn["brightness"][on], 0.6, 1.4)  # 1 -+ 0.5 * 0.8
    assert_uniform(drawn["contrast"][on], 0.6, 1.4)
    assert_uniform(drawn["saturation"][on], 0.0, 2.25)  # max(0, 1 - 0.5 * 2.5) .. 1 + 0.5 * 2.5
    assert_uniform(drawn["hue"][on], -0.1, 0.1)
    assert (drawn["brightness_shift"] == 0).all()


def test_additive_brightness_shifts_uniformly_about_zero():
    policy = ImagePolicy(jitter=(1.0,), brightness_mode="additive", jitter_strength=0.5)
    drawn = draw(KEYS, policy, 1)
    assert (drawn["brightness"] == 1).all()
    assert_uniform(drawn["brightness_shift"].ravel(), -0.4, 0.4)


def test_all_24_orders_of_the_jitter_are_equally_frequent(drawn):
    orders, counts = np.unique(drawn["order"].reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_blur_sigmas_are_uniform_and_drawn_per_view(drawn):
    assert_uniform(drawn["blur_sigma"][happened(drawn)["blur"]], 0.1, 2.0)


def test_operations_that_are_off_get_neutral_parameters(drawn):
    neutral = {
        "affine": {"rotation": 0, "shear": 0, "scaling": 1, "translation": 0},
        "jitter": {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0},
        "blur": {"blur_sigma": 0},
    }
    for operation, values in neutral.items():
        off = ~happened(drawn)[operation]
        for name, value in values.items():
            assert (drawn[name][off] == value).all()


def test_parameters_of_different_operations_and_views_are_uncorrelated():
    always = dataclasses.replace(POLICY, affine=(1.0,), jitter=(1.0,), blur=(1.0,))
    drawn = draw(KEYS, always, 2)
    first = {name: drawn[name][..., 0] for name in ("crop_area", "crop_log_ratio", "order")}
    shifts = {"down": drawn["translation"][..., 0], "right": drawn["translation"][..., 1]}
    # The translation is replaced by its two components. The brightness shift is 0 in this policy,
    # whose brightness is multiplicative.
    omitted = ("translation", "brightness_shift")
    drawn = {
        name: value for name, value in {**drawn, **first, **shifts}.items() if name not in omitted
    }
    varied = [value[:, v] for value in drawn.values() for v in (0, 1) if np.std(value[:, v]) > 0]
    assert len(varied) >= 2 * len(drawn) - 1  # the first view never solarizes
    correlation = np.corrcoef(np.float64(varied)) - np.eye(len(varied))
    # About 700 pairs of independent columns. Each correlation has standard deviation 1 / sqrt(N).
    assert np.abs(correlation).max() < 4.5 / math.sqrt(N)


@pytest.mark.slow
def test_the_same_key_draws_the_same_alone_in_a_batch_and_without_compiling(drawn):
    alone = sample_views(jnp.asarray(KEYS[5:6]), POLICY, 2)
    for name, value in drawn.items():
        # The uniform numbers are identical. Compiled arithmetic on them may round differently.
        np.testing.assert_allclose(alone[name][0], value[5], rtol=1e-6, atol=1e-7)


def test_different_keys_and_different_views_draw_differently(drawn):
    assert len(np.unique(drawn["crop_area"].reshape(2 * N, 10), axis=0)) == 2 * N


def test_an_appended_view_does_not_change_the_earlier_ones():
    policy = ImagePolicy()
    two, five = (draw(KEYS[:50], policy, views) for views in (2, 5))
    for name, value in two.items():
        np.testing.assert_array_equal(value, five[name][:, :2])


def test_a_draw_is_a_prefix_of_a_longer_draw():
    # A new operation can therefore use the next number without changing the other draws.
    key = jax.random.wrap_key_data(jnp.asarray(KEYS[0]), impl="threefry2x32")
    np.testing.assert_array_equal(
        jax.random.uniform(key, (40,)), jax.random.uniform(key, (100,))[:40]
    )


def test_a_run_of_an_earlier_version_draws_the_same_today():
    drawn = sample(jnp.asarray([1, 2], jnp.uint32), POLICY, 1)
    recorded = {  # by version 0.1.0; with other values, runs in progress could not be resumed
        "crop": False,
        "crop_y": 0.6219687,
        "horizontal_flip": True,
        "rotation": -0.06866488,
        "translation": [0.19178505, 0.06663804],
        "order": [0, 1, 3, 2],
        "brightness": 0.6336635,
        "hue": -0.02441263,
        "blur_sigma": 1.4829172,
        "solarize": False,
    }
    for name, value in recorded.items():
        np.testing.assert_allclose(drawn[name], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blur": (1.5,)}, r"augment.blur is \(1.5,\)"),
        ({"crop": ()}, r"augment.crop is \(\)"),
        ({"crop_ratio": (2.0, 1.0)}, r"augment.crop_ratio is \(2.0, 1.0\)"),
        ({"crop_area": (0.0, 1.0)}, r"augment.crop_area is \(0.0, 1.0\)"),
        ({"crop_area": (0.5, 1.5)}, r"crop_area ends at 1.5"),
        ({"scaling": (0.0, 1.0)}, r"augment.scaling"),
        ({"hue": 0.4, "jitter_strength": 2.0}, r"hue 0.4 at strength 2.0"),
        ({"rotation": math.nan, "affine": (1.0,)}, r"augment.rotation is nan"),
        ({"translation": math.inf, "affine": (1.0,)}, r"augment.translation is inf"),
        ({"shear": -90.0, "affine": (1.0,)}, r"shear is -90.0; give a number between -90 and 90"),
        ({"scaling": (1.0, math.inf), "affine": (1.0,)}, r"augment.scaling is \(1.0, inf\)"),
        ({"crop_ratio": (math.nan, 1.0)}, r"augment.crop_ratio is \(nan, 1.0\)"),
        ({"blur_kernel": math.inf}, r"augment.blur_kernel is inf"),
        ({"fill": math.nan}, r"augment.fill is nan"),
        ({"hue": math.nan}, r"augment.hue nan"),
    ],
)
def test_impossible_policies_are_refused_with_the_value(changes, message):
    with pytest.raises(UserError, match=message):
        ImagePolicy(**changes)


@pytest.mark.parametrize(
    "change", [{"rotation": 15.0}, {"translation": 0.1}, {"scaling": (0.8, 1.2)}, {"shear": -5.0}]
)
def test_an_affine_range_that_no_view_would_use_is_refused(change):
    (name,) = change
    for never in ((0.0,), (0.0, 0.0)):
        with pytest.raises(UserError, match=rf"augment.{name} is .*--augment.affine 1.0"):
            ImagePolicy(affine=never, **change)
    assert ImagePolicy(affine=(0.0, 0.5), **change).uses("affine")


def test_a_view_too_small_to_blur_is_refused_with_a_way_out_that_works():
    assert blur_radius(ImagePolicy(blur_kernel=1.0), 2) == 1
    with pytest.raises(UserError, match=r"use at most 1$"):
        blur_radius(ImagePolicy(blur_kernel=2.0), 2)
    with pytest.raises(UserError, match=r"--augment.blur 0.0\) or use larger views"):
        blur_radius(ImagePolicy(), 1)  # a view of 1 px has no neighbours that could be mirrored


def test_an_operation_is_used_where_any_view_may_apply_it():
    assert ImagePolicy(solarize=(0.0, 0.2)).uses("solarize")
    assert not ImagePolicy(solarize=(0.0, 0.0)).uses("solarize")
