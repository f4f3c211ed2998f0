"""KoLeo against loops and closed forms, on one and on several devices."""

import math

import jax
import numpy as np
import pytest

from cssl_jax import losses
from cssl_jax.runtime import spmd

RNG = np.random.default_rng(0)


def value_and_gradient(x, devices=1):
    """Loss and gradient of the global batch [N, D] in float64."""
    with jax.enable_x64(True):
        if devices == 1:
            loss, gradient = jax.jit(jax.value_and_grad(losses.koleo))(x)
            return float(loss), np.asarray(gradient)
        mesh = spmd.make_mesh(jax.devices()[:devices])
        axis = mesh.axis_names[0]
        spec = jax.sharding.PartitionSpec(axis)

        def local(rows):
            loss, gradient = jax.value_and_grad(losses.koleo)(rows, axis_name=axis)
            return jax.lax.pmean(loss, axis), gradient / devices

        mapped = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=spec,
            out_specs=(jax.sharding.PartitionSpec(), spec),
            check_vma=False,
        )
        loss, gradient = jax.jit(mapped)(x)
        return float(loss), np.asarray(gradient)


def by_loops(x):
    """Minus the mean logarithm of each unit row's distance from the nearest other."""
    unit = [row / math.sqrt(sum(row**2)) for row in x]
    total = 0.0
    for i, a in enumerate(unit):
        nearest = min(math.sqrt(sum((a - b) ** 2)) for j, b in enumerate(unit) if j != i)
        total -= math.log(nearest) / len(unit)
    return total


@pytest.mark.parametrize("points", [3, 8])
def test_points_on_a_circle_have_the_closed_form(points):
    angles = 2 * np.pi * np.arange(points) / points
    circle = 3.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    loss, _ = value_and_gradient(circle)
    assert loss == pytest.approx(-math.log(2 * math.sin(math.pi / points)), rel=1e-12)


@pytest.mark.parametrize("devices", [1, 4])
def test_value_and_gradient_are_those_of_the_loops_on_any_number_of_devices(devices):
    x = RNG.normal(size=(8, 5))
    loss, gradient = value_and_gradient(x, devices)
    assert loss == pytest.approx(by_loops(x), rel=1e-12)
    for index in ((0, 0), (3, 2), (7, 4)):  # central differences
        step = np.zeros_like(x)
        step[index] = 1e-6
        slope = (by_loops(x + step) - by_loops(x - step)) / 2e-6
        assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_equal_rows_cost_the_logarithm_of_epsilon_and_have_a_finite_gradient():
    loss, gradient = jax.jit(jax.value_and_grad(losses.koleo))(np.ones((4, 3), np.float32))
    assert float(loss) == pytest.approx(-math.log(1e-8), rel=1e-6)
    assert np.isfinite(gradient).all()
