"""Max-pooling against Flax's, whose gradient is XLA's own, and against a loop."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.models.pooling import max_pool

STEM = (3, 2, 1)  # window, stride, padding of ResNet's


def flax_pool(x, window, stride, padding):
    sides = ((padding, padding),) * 2
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=sides)


def with_gradient(pool, x, options, seed=0):
    """(what it gives, gradient of a weighted sum of that)."""
    out = jax.eval_shape(lambda a: pool(a, *options), x)
    weights = jnp.asarray(np.random.default_rng(seed).standard_normal(out.shape), x.dtype)

    @jax.jit
    def run(a):
        found, pull = jax.vjp(lambda b: pool(b, *options), a)
        return found, pull(weights)[0]

    return run(x)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        *(((8, 8), STEM), ((7, 9), STEM), ((1, 2), STEM)),
        *(((9, 8), (2, 2, 0)), ((6, 7), (3, 1, 1)), ((8, 7), (2, 3, 0))),
    ],
)
def test_values_and_gradients_are_xlas_bit_for_bit(size, options, dtype):
    rng = np.random.default_rng(1)
    ties = [rng.integers(0, levels, (*size, 3)) for levels in (1, 3)]  # everywhere, and many
    x = np.stack([*ties, rng.standard_normal((*size, 3))])
    with jax.enable_x64(True):
        x = jnp.asarray(x, dtype)
        ours, xlas = (with_gradient(pool, x, options) for pool in (max_pool, flax_pool))
    for found, expected in zip(ours, xlas, strict=True):
        assert found.dtype == expected.dtype == x.dtype
        np.testing.assert_array_equal(*(np.asarray(a).view(np.uint8) for a in (found, expected)))


def test_of_equal_entries_the_first_has_the_gradient_of_all_windows_that_share_it():
    x = jnp.zeros((1, 5, 5, 1))
    found, gradient = with_gradient(max_pool, x, STEM)
    weights = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    expected = np.zeros((5, 5), np.float32)
    for i in range(3):
        for j in range(3):
            expected[max(2 * i - 1, 0), max(2 * j - 1, 0)] += weights[i, j]
    np.testing.assert_array_equal(found, 0)
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def test_the_gradient_scatters_nothing():
    x = jnp.ones((2, 8, 8, 4))
    lowered = {
        pool: jax.jit(jax.grad(lambda a, pool=pool: pool(a, *STEM).sum())).lower(x).as_text()
        for pool in (max_pool, flax_pool)
    }
    assert "scatter" in lowered[flax_pool]
    assert "scatter" not in lowered[max_pool]
