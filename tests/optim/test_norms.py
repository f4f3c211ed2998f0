"""Norms of all tensors of a tree, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.optim import norms

# Small ones of one shape and of their own, a scalar, and large ones with few, many and no rows.
SHAPES = [(3,), (2, 3), (3,), (), (3, 3, 16, 32), (8193, 2), (5000,), (2, 3), (70, 64), (3,)]


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    return [rng.normal(1, 3, shape) for shape in SHAPES]


@pytest.mark.parametrize("rows", [8192, 0])
def test_square_sums_are_those_of_each_tensor_in_order(tree, rows, monkeypatch):
    monkeypatch.setattr(norms, "_MAX_ROWS", rows)
    found = jax.jit(norms.square_sums)([jnp.asarray(x, jnp.float32) for x in tree])
    expected = [np.sum(x.astype(np.float32).astype(np.float64) ** 2) for x in tree]
    np.testing.assert_allclose(found, expected, rtol=3e-6)


def test_nan_of_one_tensor_stays_there(tree):
    broken = [*tree]
    broken[4] = np.where(np.arange(32) == 7, np.nan, tree[4])
    found = jax.jit(norms.square_sums)(broken)
    assert np.isnan(found).tolist() == [number == 4 for number in range(len(SHAPES))]


def test_an_empty_tree_has_no_sums():
    assert norms.square_sums({}).shape == (0,)


def test_each_tensor_is_scaled_by_its_entry_and_keeps_its_dtype():
    scaled = norms.scale_leaves(
        {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((1, 2))}, jnp.array([2.0, 3.0])
    )
    assert scaled["a"].dtype == jnp.bfloat16
    assert [float(scaled[name].max()) for name in "ab"] == [2, 3]
