"""Barlow Twins, VICReg and the cosine losses at points that can be computed by hand."""

import functools
import math

import jax
import numpy as np
import pytest

from cssl_jax import losses
from cssl_jax.errors import UserError
from cssl_jax.losses.barlow_twins import chance_level as barlow_chance
from cssl_jax.losses.vicreg import chance_level as vicreg_chance
from helpers import methods_numpy

RNG = np.random.default_rng(0)
WIDE = RNG.normal(size=(2, 6, 20))  # fewer rows than features: the products of rows are cheaper
TALL = RNG.normal(size=(2, 20, 6))


def white(rows, width):
    """Centred, uncorrelated columns of variance 1 (biased)."""
    columns = np.linalg.qr(np.c_[np.ones(rows), RNG.normal(size=(rows, width))])[0][:, 1:]
    return columns * math.sqrt(rows)


@functools.cache
def function(name, gram=None):
    return jax.jit(
        jax.value_and_grad(lambda a, b: getattr(losses, name)(a, b, gram=gram)[0], argnums=(0, 1))
    )


def value(name, z1, z2, gram=None):
    with jax.enable_x64(True):
        return float(function(name, gram)(z1, z2)[0])


@pytest.mark.parametrize(("z1", "z2"), [WIDE, TALL], ids=["wide", "tall"])
@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_products_of_rows_and_of_columns_give_the_same_loss_and_gradient(name, z1, z2):
    with jax.enable_x64(True):
        results = [function(name, gram)(z1, z2) for gram in (True, False)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), *results)
    loop = {
        "barlow_twins": lambda: methods_numpy.correlation_loss(z1, z2, 0.0051),
        "vicreg": lambda: methods_numpy.vicreg(z1, z2, 25, 25, 1),
    }[name]()
    assert float(results[0][0]) == pytest.approx(loop, rel=1e-11)


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_the_difference_of_large_sums_stays_small_in_float32(name):
    # Nearly uncorrelated features: the sum over all entries is nearly that over the diagonal.
    z = white(32, 24) + 0.01 * RNG.normal(size=(32, 24))
    exact = value(name, z, z, gram=False)
    for gram in (True, False):
        rounded, _ = function(name, gram)(z.astype(np.float32), z.astype(np.float32))
        # The sums over the diagonal are 24, of which float32 keeps 1e-6.
        assert float(rounded) == pytest.approx(exact, abs=24 * 2e-6), gram


def test_barlow_twins_of_white_features():
    z = white(20, 6)
    # The epsilon of 1e-5 beside the variance of 1 shortens the diagonal by as much.
    assert value("barlow_twins", z, z) == pytest.approx(6 * 1e-10, abs=1e-9)
    assert value("barlow_twins", z, -z) == pytest.approx(4 * 6, rel=1e-4)


def test_barlow_twins_of_identical_features():
    z = np.repeat(RNG.normal(size=(20, 1)), 6, axis=1)
    assert value("barlow_twins", z, z) == pytest.approx(0.0051 * 6 * 5, rel=1e-3)


def test_barlow_twins_of_independent_views_is_near_its_chance_level():
    drawn = [value("barlow_twins", *RNG.normal(size=(2, 64, 32))) for _ in range(20)]
    # The correlation of 64 pairs has the variance 1 / 63; the diagonal adds as much.
    expected = barlow_chance(64, 32, 0.0051) + 32 / 64
    assert np.mean(drawn) == pytest.approx(expected, rel=0.02)


def test_barlow_twins_does_not_change_with_scale_shift_and_order_of_features():
    z1, z2 = 10 * TALL  # large beside the epsilon
    scale, shift = RNG.uniform(0.5, 2, 6), RNG.normal(size=6)
    order = RNG.permutation(6)
    changed = value("barlow_twins", z1[:, order] * scale + shift, z2[:, order])
    assert changed == pytest.approx(value("barlow_twins", z1, z2), rel=1e-6)
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    assert abs(value("barlow_twins", z1 @ rotation, z2) - value("barlow_twins", z1, z2)) > 0.1


def test_vicreg_of_constant_projections_is_the_variance_term():
    z = np.ones((8, 6))
    assert value("vicreg", z, z) == pytest.approx(24.75, rel=1e-12)
    assert vicreg_chance(25.0) == pytest.approx(24.75)


def test_vicreg_of_white_features_is_zero():
    z = 1.1 * white(20, 6)  # above a standard deviation of 1
    # The covariance term is the difference of two sums of squares of about 9.
    assert value("vicreg", z, z) == pytest.approx(0, abs=1e-14)


def test_vicreg_does_not_change_if_all_rows_move():
    z1, z2 = TALL
    shift = RNG.normal(size=6)
    moved = value("vicreg", z1 + shift, z2 + shift)
    assert moved == pytest.approx(value("vicreg", z1, z2), rel=1e-9)


def test_one_row_is_refused():
    for name in ("barlow_twins", "vicreg"):
        with pytest.raises(UserError, match="1 row has no variance"):
            getattr(losses, name)(np.ones((1, 3)), np.ones((1, 3)))


# ----------------------------------------------------------------------------------------- cosines


def test_cosines_of_equal_orthogonal_and_opposite_rows():
    e = np.eye(4, dtype=np.float32)
    cosine = jax.jit(losses.negative_cosine)
    found = [float(cosine(e, other)) for other in (3 * e, np.roll(e, 1, axis=0), -e)]
    np.testing.assert_allclose(found, [-1, 0, 1], atol=1e-7)


def test_the_gradient_of_a_cosine_is_orthogonal_to_the_prediction_and_absent_for_the_target():
    p, z = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    ours, theirs = jax.jit(jax.grad(losses.negative_cosine, argnums=(0, 1)))(p, z)
    np.testing.assert_allclose(np.sum(ours * p, axis=1), 0, atol=1e-7)
    assert np.all(theirs == 0)


def test_the_spread_of_directions_is_one_on_a_sphere_and_zero_at_a_point():
    spread = jax.jit(lambda z: losses.unit_std(z, None))
    directions = RNG.normal(size=(4000, 3)).astype(np.float32)
    assert float(spread(directions)) == pytest.approx(1, abs=0.01)
    # The norms differ; the directions do not.
    norms = RNG.uniform(1, 9, size=(4000, 1)).astype(np.float32)
    assert float(spread(norms * np.ones(3, np.float32))) == pytest.approx(0, abs=1e-3)
