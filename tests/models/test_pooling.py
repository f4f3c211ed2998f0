"""Max-pooling: agreement with Flax, whose gradient is XLA's, and with a loop."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.models.pooling import max_pool, same_padding

STEM = (3, 2, 1)  # window, stride and padding in the stem of ResNet


def flax_pool(x, window, stride, padding):
    sides = padding if padding == "SAME" else ((padding, padding),) * 2
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=sides)


def own_pool(x, window, stride, padding):
    if padding == "SAME":
        padding = same_padding(x.shape, window, stride)
    return max_pool(x, window, stride, padding)


def with_gradient(pool, x, options, seed=0):
    """(output, gradient of a weighted sum of the output)."""
    out = jax.eval_shape(lambda a: pool(a, *options), x)
    weights = jnp.asarray(np.random.default_rng(seed).standard_normal(out.shape), x.dtype)

    @jax.jit
    def run(a):
        output, pull_back = jax.vjp(lambda b: pool(b, *options), a)
        return output, pull_back(weights)[0]

    return run(x)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        *(((8, 8), STEM), ((7, 9), STEM), ((1, 2), STEM)),
        *(((9, 8), (2, 2, 0)), ((6, 7), (3, 1, 1)), ((8, 7), (2, 3, 0))),
        *(((8, 7), (3, 2, "SAME")), ((5, 6), (2, 1, "SAME"))),
    ],
)
def test_values_and_gradients_have_the_bits_of_xla(size, options, dtype):
    rng = np.random.default_rng(1)
    ties = [
        rng.integers(0, levels, (*size, 3)) for levels in (1, 3)
    ]  # ties everywhere, and many ties
    x = np.stack([*ties, rng.standard_normal((*size, 3))])
    with jax.enable_x64(True):
        x = jnp.asarray(x, dtype)
        own, xla = (with_gradient(pool, x, options) for pool in (own_pool, flax_pool))
    for output, expected in zip(own, xla, strict=True):
        assert output.dtype == expected.dtype == x.dtype
        np.testing.assert_array_equal(*(np.asarray(a).view(np.uint8) for a in (output, expected)))


def test_among_equal_entries_the_first_receives_the_gradient_of_its_windows():
    x = jnp.zeros((1, 5, 5, 1))
    output, gradient = with_gradient(max_pool, x, STEM)
    weights = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    expected = np.zeros((5, 5), np.float32)
    for i in range(3):
        for j in range(3):
            expected[max(2 * i - 1, 0), max(2 * j - 1, 0)] += weights[i, j]
    np.testing.assert_array_equal(output, 0)
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def test_the_gradient_contains_no_scatter():
    x = jnp.ones((2, 8, 8, 4))
    lowered = {
        pool: jax.jit(jax.grad(lambda a, pool=pool: pool(a, *STEM).sum())).lower(x).as_text()
        for pool in (max_pool, flax_pool)
    }
    assert "scatter" in lowered[flax_pool]
    assert "scatter" not in lowered[max_pool]
