"""Schedules and scaling rules of the learning rate: agreement with formulas in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.optim import schedules


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("jitted", [False, True])
def test_the_cosine_schedule_has_the_stated_corners(float64, jitted):
    rate = schedules.warmup_cosine(4.8, 10, 110, end=0.3)
    rate = jax.jit(rate) if jitted else rate

    def half_cosine(t):
        return 0.3 + 4.5 * 0.5 * (1 + math.cos(math.pi * t))

    corners = {
        0: 0.0,
        1: 0.48,
        9: 4.32,
        10: 4.8,
        11: half_cosine(0.01),
        60: (4.8 + 0.3) / 2,
        109: half_cosine(0.99),
        110: 0.3,
        120: 0.3,
    }
    for step, expected in corners.items():
        # The step is int32, as in optax. The tolerance covers rounding of cos and two products.
        value = rate(jnp.int32(step))
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15, err_msg=str(step))


def test_the_corners_are_exact_in_float32():
    rate = schedules.warmup_cosine(4.8, 10, 110)
    assert [float(rate(s)) for s in (0, 110, 111)] == [0.0, 0.0, 0.0]
    assert rate(10) == np.float32(4.8)
    assert rate(10).dtype == jnp.float32


def test_a_schedule_without_warmup_starts_at_its_peak():
    rate = schedules.warmup_cosine(1.0, 0, 4)
    # In float32, cos(pi / 2) differs from 0 by 4e-8.
    expected = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0, 0.0]
    np.testing.assert_allclose([rate(s) for s in range(6)], expected, atol=2e-7)


def test_a_warmup_may_last_the_whole_run():
    rate = schedules.warmup_cosine(1.0, 4, 4)
    np.testing.assert_allclose([rate(s) for s in range(7)], [0, 0.25, 0.5, 0.75, 1, 0, 0])


def test_the_constant_schedule_is_constant_after_warmup():
    rate = schedules.make_schedule("constant", 2.0, 4, 8)
    np.testing.assert_array_equal([rate(s) for s in (0, 1, 4, 7, 8, 18)], [0, 0.5, 2, 2, 2, 2])
    np.testing.assert_array_equal(schedules.make_schedule("constant", 2.0, 0, 8)(0), 2.0)


def test_make_schedule_builds_the_cosine_by_name():
    named, direct = schedules.make_schedule("cosine", 3.0, 2, 9), schedules.warmup_cosine(3, 2, 9)
    np.testing.assert_array_equal([named(s) for s in range(12)], [direct(s) for s in range(12)])


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_an_invalid_warmup_is_rejected_with_a_remedy(name):
    with pytest.raises(UserError, match=r"600 steps is longer than the run of 500.*fewer warm-up"):
        schedules.make_schedule(name, 1.0, 600, 500)
    with pytest.raises(UserError, match="use 0 for no warm-up"):
        schedules.make_schedule(name, 1.0, -1, 500)
    with pytest.raises(UserError, match="at least one step"):
        schedules.make_schedule(name, 1.0, 0, 0)


@pytest.mark.parametrize(
    ("base", "batch_size", "rule", "expected"),
    [
        (0.3, 4096, "linear", 4.8),
        (0.3, 256, "linear", 0.3),
        (0.075, 4096, "sqrt", 4.8),
        (0.075, 256, "sqrt", 1.2),
        (0.5, 4096, "none", 0.5),
    ],
)
def test_learning_rates_scale_as_in_the_paper(base, batch_size, rule, expected):
    # The tolerance covers one product and one division of Python floats.
    assert schedules.scaled_learning_rate(base, batch_size, rule) == pytest.approx(expected, 1e-14)


def test_an_unknown_name_is_rejected_with_the_choices():
    with pytest.raises(UserError, match=r"'square'.*linear, none, sqrt"):
        schedules.scaled_learning_rate(0.3, 256, "square")
    with pytest.raises(UserError, match=r"'step'.*constant, cosine"):
        schedules.make_schedule("step", 1.0, 0, 10)
