"""Convolutions by matrix products: agreement with float64 loops and with XLA's convolution."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from cssl_jax.models import products
from cssl_jax.models.convolution import LAYOUT, convolution, xla_only
from cssl_jax.runtime import spmd

# (height, width), channels in and out, window, strides, padding.
CASES = {
    "3x3": ((6, 5), (16, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "3x3, stride 2, odd": ((9, 7), (17, 3), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "3x3, stride 2, even": ((8, 6), (16, 4), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "1x1": ((5, 4), (16, 8), (1, 1), (1, 1), "VALID"),
    "1x1, stride 2": ((5, 4), (32, 4), (1, 1), (2, 2), "VALID"),
    "7x7, stride 2, RGB": ((13, 16), (3, 33), (7, 7), (2, 2), ((3, 3), (3, 3))),
    "3x3, RGB": ((6, 6), (3, 33), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "3x3, few channels": ((6, 6), (3, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "2x3, uneven padding": ((6, 7), (16, 4), (2, 3), (1, 3), ((0, 2), (3, 1))),
    "3x3, cropped": ((9, 9), (16, 4), (3, 3), (2, 1), ((-1, 2), (1, -2))),
    "3x3 on 2x2": ((2, 2), (16, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "3x3 onto 2x2": ((4, 4), (16, 4), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "7x7 on 3x5": ((3, 5), (4, 4), (7, 7), (1, 2), ((3, 3), (3, 3))),
    "same": ((7, 8), (16, 4), (3, 2), (2, 2), "SAME"),
}


by_products = jax.jit(products.kernel_gradient, static_argnums=(2, 3, 4))


def pads(size, window, strides, padding):
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, window, strides, padding)
    return tuple(padding)


def operands(case, dtype=np.float64, batch=3):
    size, (channels, out), window, strides, padding = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *size, channels))
    counts = [
        (n + sum(pad) - w) // s + 1
        for n, w, s, pad in zip(
            size, window, strides, pads(size, window, strides, padding), strict=True
        )
    ]
    g = rng.normal(size=(batch, *counts, out))
    k = rng.normal(size=(*window, channels, out))
    return [np.asarray(value, dtype) for value in (x, k, g)]


def by_loops(x, g, window, strides, padding):
    """Kernel gradient by definition: position by position and tap by tap."""
    x, g = np.asarray(x), np.asarray(g)
    computed = np.zeros((*window, x.shape[3], g.shape[3]))
    (top, _), (left, _) = padding
    for row, column in np.ndindex(g.shape[1:3]):
        for i, j in np.ndindex(*window):
            y, z = row * strides[0] + i - top, column * strides[1] + j - left
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                computed[i, j] += x[:, y, z].T @ g[:, row, column]
    return computed


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_gradients_match_loops_and_xla(case):
    size, _, window, strides, padding = case
    with jax.enable_x64(True):
        x, k, g = operands(case)

        @functools.partial(jax.jit, static_argnums=0)
        def values(function, x, k, g):
            call = functools.partial(function, dimension_numbers=LAYOUT)
            y, pull = jax.vjp(lambda x, k: call(x, k, strides, padding), x, k)
            return y, *pull(g)

        sides = pads(size, window, strides, padding)
        expected = by_loops(x, g, window, strides, sides)
        computed = by_products(x, g, window, strides, sides)
        np.testing.assert_allclose(computed, expected, rtol=1e-12, atol=1e-12)
        own, xla = (
            values(function, x, k, g) for function in (convolution, lax.conv_general_dilated)
        )
        for ours, theirs in zip(own, xla, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 6])
def test_the_gradient_does_not_depend_on_the_chunk_size(monkeypatch, chunk_size):
    case = CASES["3x3, stride 2, odd"]
    *_, window, strides, padding = case
    with jax.enable_x64(True):
        x, _, g = operands(case, batch=6)
        monkeypatch.setattr(products, "_chunk_size", lambda *_: chunk_size)
        computed = by_products(x, g, window, strides, padding)
        expected = by_loops(x, g, window, strides, padding)
        np.testing.assert_allclose(computed, expected, rtol=1e-12, atol=1e-12)


def test_the_chunk_size_divides_the_batch():
    for batch, positions, channels in (
        (64, 1024, 64),
        (96, 256, 128),
        (7, 64, 256),
        (512, 144, 16),
    ):
        chunk_size = products._chunk_size(batch, positions, channels)
        assert batch % chunk_size == 0
        assert chunk_size * positions >= min(products.CACHE_ENTRIES // channels, batch * positions)


def test_products_of_bfloat16_are_summed_in_float32():
    case = CASES["3x3, stride 2, odd"]
    *_, window, strides, padding = case
    x, _, g = operands(case, jnp.bfloat16)
    computed = by_products(x, g, window, strides, padding)
    assert computed.dtype == jnp.float32
    wide = [np.asarray(value, np.float64) for value in (x, g)]
    np.testing.assert_allclose(computed, by_loops(*wide, window, strides, padding), rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_dilation": (2, 2)},
        {"input_dilation": (2, 1), "padding": 1},
        {"feature_group_count": 4},
    ],
    ids=str,
)
def test_dilated_and_grouped_convolutions_use_xla(options):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 16))

    def gradient(**more):
        layer = nn.Conv(4, (3, 3), **options, **more)
        params = layer.init(jax.random.key(1), x)
        return jax.jit(jax.grad(lambda p: (layer.apply(p, x) ** 2).sum()))(params)

    jax.tree.map(
        np.testing.assert_array_equal, gradient(), gradient(conv_general_dilated=convolution)
    )


def layer_loss(remat=False):
    """(layer large enough for matrix products on a CPU, its loss: sum of squared outputs)."""
    block = nn.remat(nn.Conv) if remat else nn.Conv
    layer = block(32, (3, 3), strides=(2, 2), conv_general_dilated=convolution)
    return layer, lambda params, x: (layer.apply(params, x) ** 2).sum()


def test_gradients_are_the_same_under_remat_and_over_devices():
    layer, loss = layer_loss()
    x = jax.random.normal(jax.random.key(0), (8, 24, 24, 8))
    params = layer.init(jax.random.key(1), x)
    expected = jax.jit(jax.grad(loss))(params, x)
    remat = jax.jit(jax.grad(layer_loss(remat=True)[1]))(params, x)
    mesh = spmd.make_mesh(jax.devices()[:4])
    sharded = jax.shard_map(
        lambda p, x: lax.psum(jax.grad(loss)(p, x), spmd.AXIS),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(spmd.AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    for computed in (remat, jax.jit(sharded)(params, x)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2), computed, expected
        )


def program(function, platform, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
    return exported.mlir_module()


def test_accelerators_use_the_gradient_of_xla():
    layer, loss = layer_loss()
    x = jnp.zeros((8, 24, 24, 8))
    params = layer.init(jax.random.key(1), x)
    texts = {name: program(jax.grad(loss), name, params, x) for name in ("cpu", "tpu", "cuda")}
    assert "stablehlo.dot_general" in texts["cpu"]
    for name in ("tpu", "cuda"):
        assert "stablehlo.dot_general" not in texts[name]


@pytest.mark.parametrize(("side", "window"), [(8, (1, 1)), (2, (3, 3))])
def test_accelerators_use_the_values_of_xla(side, window):
    layer = nn.Conv(4, window, conv_general_dilated=convolution)
    x = jnp.zeros((2, side, side, 16))
    params = layer.init(jax.random.key(1), x)
    texts = {name: program(layer.apply, name, params, x) for name in ("cpu", "tpu", "cuda")}
    assert "stablehlo.convolution" not in texts["cpu"]
    for name in ("tpu", "cuda"):
        assert "stablehlo.convolution" in texts[name]
        assert "stablehlo.dot_general" not in texts[name]


def test_xla_only_makes_a_cpu_use_xla():
    layer, loss = layer_loss()
    x = jnp.zeros((8, 24, 24, 8))
    params = layer.init(jax.random.key(1), x)
    with xla_only():
        text = program(jax.grad(loss), "cpu", params, x)
    assert "stablehlo.dot_general" not in text
    assert "stablehlo.dot_general" in program(lambda p, x: jax.grad(loss)(p, x), "cpu", params, x)
