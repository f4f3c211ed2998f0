"""CORAL: agreement with the covariance of NumPy, on one device and on several."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cssl_jax.errors import UserError
from cssl_jax.losses import coral
from cssl_jax.runtime import spmd


def features(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    return np.float32(rng.normal(size=(rows, width)) @ mixing + 30 * rng.normal(size=width))


def reference(source, target):
    difference = np.cov(np.float64(source), rowvar=False) - np.cov(np.float64(target), rowvar=False)
    return np.sum(difference**2) / (4 * source.shape[1] ** 2)


def test_the_loss_is_the_distance_between_the_covariances_of_numpy():
    source, target = features(24, 5), features(24, 5, seed=1)
    # The means are 30 standard deviations from 0: without centring, float32 loses three digits.
    assert float(coral(source, target)) == pytest.approx(reference(source, target), rel=1e-5)
    assert float(coral(source, source + 7.0)) == pytest.approx(
        0.0, abs=1e-6
    )  # invariant to the mean


def test_the_gradient_is_equation_4_of_the_paper():
    """Eq. 4: (C_S - C_T) applied to the centred rows, over d^2 (n - 1)."""
    source, target = features(24, 5), features(24, 5, seed=1)
    difference = np.cov(np.float64(source), rowvar=False) - np.cov(np.float64(target), rowvar=False)
    expected = (source - source.mean(0, dtype=np.float64)) @ difference / (5**2 * 23)
    computed = jax.grad(coral)(source, target)
    np.testing.assert_allclose(computed, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("devices", [2, 8])
def test_covariances_are_computed_over_the_rows_of_all_devices(devices):
    source, target = features(24, 5), features(24, 5, seed=1)
    mesh = spmd.make_mesh(jax.devices()[:devices])
    rows, replicated = PartitionSpec(spmd.AXIS), PartitionSpec()
    sharded = jax.shard_map(
        lambda s, t: coral(s, t, axis_name=spmd.AXIS),
        mesh=mesh,
        in_specs=(rows, rows),
        out_specs=replicated,
        check_vma=False,
    )
    assert float(jax.jit(sharded)(source, target)) == pytest.approx(
        reference(source, target), rel=1e-5
    )


def test_shapes_without_a_covariance_are_rejected():
    with pytest.raises(UserError, match=r"source features are \(4, 3\), target features \(4, 2\)"):
        coral(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(UserError, match="1 row has no covariance"):
        coral(np.ones((1, 3)), np.ones((1, 3)))
