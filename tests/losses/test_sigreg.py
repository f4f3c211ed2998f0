"""SIGReg beside closed forms, quadrature and what a Gaussian gives."""

import importlib

import jax
import numpy as np
import pytest
from scipy import integrate

from cssl_jax import losses
from cssl_jax.errors import UserError
from helpers import methods_numpy

module = importlib.import_module("cssl_jax.losses.sigreg")
RNG = np.random.default_rng(0)
AXIS = np.ones((1, 1))


def value(z, directions):
    with jax.enable_x64(True):
        return float(jax.jit(losses.sigreg)(np.asarray(z, np.float64), directions))


def unit(width, count):
    columns = RNG.normal(size=(width, count))
    return columns / np.linalg.norm(columns, axis=0)


def on_the_whole_line(x):
    """The integral over all frequencies of one sample, in closed form."""
    pairs = np.mean(np.exp(-((x[:, None] - x) ** 2) / 2))
    singles = np.mean(np.exp(-(x**2) / 4))
    return len(x) * np.sqrt(2 * np.pi) * (pairs - np.sqrt(2) * singles + 3**-0.5)


def up_to_three(x):
    """The integral over the frequencies in [-3, 3] by adaptive quadrature."""

    def integrand(t):
        gaussian = np.exp(-(t**2) / 2)
        return abs(np.mean(np.exp(1j * t * x)) - gaussian) ** 2 * gaussian

    return 2 * len(x) * integrate.quad(integrand, 0, 3)[0]


@pytest.mark.parametrize("x", [RNG.normal(size=40), RNG.uniform(-1, 3, 12), np.zeros(30)])
def test_the_rule_integrates_to_a_thousandth_and_the_cut_costs_less_than_two_percent(x):
    found = value(x[:, None], AXIS)
    assert found == pytest.approx(up_to_three(x), rel=1e-3)
    assert found == pytest.approx(on_the_whole_line(x), rel=0.02)
    assert found == pytest.approx(methods_numpy.sigreg(x[:, None], AXIS), rel=1e-12)


def test_collapsed_projections_have_the_closed_value():
    closed = np.sqrt(2 * np.pi) - 2 * np.sqrt(np.pi) + np.sqrt(2 * np.pi / 3)  # 0.40892
    assert module.chance_level(100) / 100 == pytest.approx(closed, rel=0.02)
    assert value(np.zeros((100, 5)), unit(5, 3)) == pytest.approx(module.chance_level(100))


def test_a_gaussian_has_a_value_of_order_one_whatever_the_number_of_rows():
    # The expectation for N(0, 1): the integral of (1 - exp(-t^2)) exp(-t^2 / 2) over all t.
    expected = np.sqrt(2 * np.pi) * (1 - 3**-0.5)
    for rows in (50, 800):
        drawn = [value(RNG.normal(size=(rows, 8)), unit(8, 64)) for _ in range(20)]
        assert np.mean(drawn) == pytest.approx(expected, rel=0.15)
    assert value(2 * RNG.normal(size=(800, 8)), unit(8, 64)) > 20 * expected


def test_rotating_rows_and_directions_changes_nothing():
    z, directions = RNG.normal(size=(20, 4)), unit(4, 6)
    rotation = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    assert value(z @ rotation, rotation.T @ directions) == pytest.approx(value(z, directions))


def test_directions_are_unit():
    directions = np.asarray(module.random_directions(jax.random.key(3), 7, 5))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-6)


def test_one_row_is_refused():
    with pytest.raises(UserError, match="1 row has no variance"):
        losses.sigreg(np.ones((1, 3)), np.eye(3))
