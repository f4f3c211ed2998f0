import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cssl_jax.errors import UserError
from cssl_jax.evaluate.diagnostics import (
    alignment,
    per_dimension_std,
    rankme,
    uniformity,
    view_retrieval,
)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loop_uniformity(z):
    z = unit(z)
    pairs = [
        np.exp(-2 * np.sum((z[i] - z[j]) ** 2))
        for i in range(len(z))
        for j in range(len(z))
        if i != j
    ]
    return np.log(np.mean(pairs))


def loop_retrieval(z1, z2):
    z1, z2 = unit(z1), unit(z2)
    hits = [np.argmax(z2 @ row) == i for i, row in enumerate(z1)]
    hits += [np.argmax(z1 @ row) == i for i, row in enumerate(z2)]
    return np.mean(hits)


def formula_rankme(values, epsilon=1e-7):
    shares = np.asarray(values, np.float64) / np.sum(values) + epsilon
    return np.exp(-np.sum(shares * np.log(shares)))


def with_singular_values(values, rows, seed=0):
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return (left * values) @ right.T


def views(n=61, width=12, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    z1 = rng.normal(size=(n, width))
    return z1, z1 + noise * rng.normal(size=(n, width))


def test_alignment_is_the_mean_squared_distance_of_unit_pairs():
    z1, z2 = views()
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(unit(z1), unit(z2), strict=True)])
    # A mean of float32 terms of size 1.
    np.testing.assert_allclose(alignment(z1, z2), expected, rtol=1e-6)
    np.testing.assert_allclose(alignment(z1 * 100, z2 * 0.01), expected, rtol=1e-6)


def test_alignment_is_0_for_equal_2_for_orthogonal_and_4_for_opposite_views():
    z = np.eye(4)
    assert alignment(z, 3 * z) == 0.0
    assert alignment(z, np.roll(z, 1, axis=0)) == pytest.approx(2.0, rel=1e-6)
    assert alignment(z, -z) == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("block_size", [20, 61, 1024])
def test_uniformity_is_the_loop_over_distinct_pairs_whatever_the_block(block_size):
    z, _ = views(n=61)
    # Exponents in [-8, 0] of float32 products, off by about 4 x 1e-7.
    np.testing.assert_allclose(uniformity(z, block_size=block_size), loop_uniformity(z), rtol=2e-6)


def test_uniformity_of_sets_whose_distances_are_known():
    # An orthonormal set: every squared distance is 2. Two opposite points: 4.
    assert uniformity(np.eye(5)) == pytest.approx(-4.0, rel=1e-6)
    assert uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8.0, rel=1e-6)
    # The n corners of a regular simplex about the origin: 2 n / (n - 1).
    assert uniformity(np.eye(5) - 0.2) == pytest.approx(-2 * 2 * 5 / 4, rel=1e-6)


@pytest.mark.parametrize("width", [3, 16])
def test_uniformity_of_random_directions_is_the_integral_over_the_sphere(width):
    z = np.random.default_rng(0).normal(size=(3000, width))
    # E exp(4 t) of t = cos(angle): gamma(D / 2) (2 / 4)^(D / 2 - 1) I_{D / 2 - 1}(4).
    half = width / 2
    expected = -4.0 + np.log(
        scipy.special.gamma(half) * 0.5 ** (half - 1) * scipy.special.iv(half - 1, 4.0)
    )
    # The sampling error of a mean over all pairs of 3,000 rows is below 1 %.
    assert uniformity(z) == pytest.approx(expected, abs=0.02)


def test_a_collapsed_encoder_has_uniformity_0_and_never_more():
    for row in np.random.default_rng(0).normal(size=(20, 33)):
        value = float(uniformity(np.tile(row, (50, 1))))
        assert -1e-5 < value <= 0.0


def test_a_dead_encoder_does_not_look_uniform():
    assert uniformity(np.zeros((9, 4))) == 0.0


@pytest.mark.parametrize("collapsed", [False, True])
def test_alignment_and_uniformity_can_be_trained_on(collapsed):
    z1, z2 = (jnp.asarray(z) for z in views(n=9))
    if collapsed:
        z1 = z2 = jnp.ones((9, 12))

    def objective(z1):
        return alignment(z1, z2) + uniformity(z1, block_size=4)

    gradient = jax.jit(jax.grad(objective))(z1)
    assert np.all(np.isfinite(gradient))
    if not collapsed:
        # A step of 1e-2 along the gradient changes a float32 value by far more than its rounding.
        direction = gradient / jnp.linalg.norm(gradient)
        slope = (objective(z1 + 1e-2 * direction) - objective(z1 - 1e-2 * direction)) / 2e-2
        np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=1e-2)


@pytest.mark.parametrize("values", [[1, 1, 1, 1], [5, 3, 1, 0.1], [1, 1e-3, 1e-6, 0]])
def test_rankme_is_the_papers_formula_of_known_singular_values(values):
    features = with_singular_values(np.array(values, float), rows=30)
    # float32 singular values are off by about 1e-7 of the largest, each of them by
    # 1e-7 ln(1e7) in the entropy.
    np.testing.assert_allclose(rankme(features), formula_rankme(values), rtol=1e-5)


def test_rankme_of_r_equal_directions_is_r():
    for rank in (1, 3, 8):
        features = np.tile(np.eye(8)[:rank], (5, 1))
        # epsilon = 1e-7 adds at most 8 x 1e-7 x ln(1e7) = 1.3e-5, rounding as much again.
        assert rankme(features) == pytest.approx(rank, rel=4e-5)


def test_rankme_does_not_centre_and_ignores_scale_and_rotation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert rankme(1e3 * features @ rotation) == pytest.approx(float(rankme(features)), rel=1e-5)
    offset = features + 100.0
    expected = formula_rankme(np.linalg.svd(offset, compute_uv=False))
    assert rankme(offset) == pytest.approx(expected, rel=1e-5)
    assert expected < 1.5 < 5.0 < rankme(features)


def test_rankme_of_features_that_are_all_zero_is_1():
    assert rankme(np.zeros((10, 4))) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("block_size", [20, 1024])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_view_retrieval_is_the_loop_over_both_directions(noise, block_size):
    z1, z2 = views(noise=noise)
    assert view_retrieval(z1, z2, block_size=block_size) == loop_retrieval(z1, z2)


def test_view_retrieval_averages_two_directions_that_differ():
    z1 = np.array([[1.0, 0.0], [0.0, 1.0]])
    z2 = np.array([[1.0, 0.1], [1.0, 0.2]])
    # Both rows of z1 find their pair (0.995 > 0.981; 0.196 > 0.0995), of z2 only the first one.
    assert view_retrieval(z1, z2) == 0.75


def test_view_retrieval_of_the_same_views_is_1_and_of_shifted_ones_0():
    z, _ = views()
    assert view_retrieval(z, 2 * z) == 1.0
    assert view_retrieval(z, np.roll(z, 1, axis=0)) == 0.0


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_view_retrieval_of_a_collapsed_or_broken_encoder_is_0(value):
    z = np.full((40, 12), value)
    assert view_retrieval(z, z) == 0.0


def test_per_dimension_std_is_that_of_unit_rows():
    z, _ = views()
    np.testing.assert_allclose(per_dimension_std(z), unit(z).std(axis=0), rtol=1e-5)


def test_per_dimension_std_is_near_one_over_root_width_and_0_when_collapsed():
    z = np.random.default_rng(0).normal(size=(2000, 64))
    # Each deviation is estimated from 2,000 rows, to 1 / sqrt(4000) = 1.6 % (1 sigma).
    np.testing.assert_allclose(per_dimension_std(z), 1 / 8, rtol=0.08)
    # float32 entries of size 1/8 and their mean agree to about 1e-8.
    np.testing.assert_allclose(per_dimension_std(np.ones((50, 64))), 0.0, atol=1e-7)


@pytest.mark.parametrize(
    "figure",
    [
        lambda z: alignment(z, z[::-1]),
        uniformity,
        rankme,
        per_dimension_std,
    ],
)
def test_half_precision_is_promoted_and_double_kept(figure):
    z, _ = views(n=10)
    assert figure(jnp.asarray(z, jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert figure(jnp.asarray(z, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("pairwise", [alignment, view_retrieval])
@pytest.mark.parametrize("shape", [(1, 12), (61, 1), (60, 12)])
def test_views_of_different_shapes_are_refused(pairwise, shape):
    z1, _ = views()
    with pytest.raises(UserError, match=r"\(61, 12\) and"):
        pairwise(z1, np.ones(shape))


@pytest.mark.parametrize("shape", [(1, 4), (4,)])
def test_uniformity_needs_a_pair(shape):
    with pytest.raises(UserError, match="at least two rows"):
        uniformity(np.ones(shape))
