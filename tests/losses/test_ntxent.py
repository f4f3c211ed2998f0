"""NT-Xent: agreement with loops in NumPy, numerics, tiles and error messages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from cssl_jax.errors import UserError
from cssl_jax.losses import nt_xent
from cssl_jax.losses.core.similarity import automatic_tile, choose_tile, normalize_rows
from cssl_jax.losses.core.two_views import two_view_contrast
from cssl_jax.losses.ntxent import accuracy_from, chance_level, entropy_from, loss_from
from cssl_jax.runtime import process, spmd
from helpers import losses_numpy
from tests.helpers.marks import slow

TILES = [None, 3]


def draw(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


def on_devices(function, devices):
    """(mean local loss, gradients) over the axis, computed as in a train step."""
    mesh = spmd.make_mesh(jax.devices()[:devices])

    def local(z1, z2):
        loss, grads = jax.value_and_grad(function, argnums=(0, 1))(z1, z2)
        # Each row is on one device, so averaging its gradient over devices is a division.
        return jax.lax.pmean(loss, "data"), jax.tree.map(lambda g: g / devices, grads)

    specs = (P("data"), P("data"))
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), specs), check_vma=False)
    )


def value_and_gradients(z1, z2, temperature, tile):
    def loss(a, b):
        return nt_xent(a, b, temperature=temperature, tile_size=tile)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(z1, z2)


LOOP_REFERENCES = {}


def loop_reference(z1, z2, temperature):
    """(loss, gradients) by NumPy loops; cached, because they take seconds."""
    key = (z1.shape, z1.tobytes(), z2.tobytes(), temperature)
    if key not in LOOP_REFERENCES:
        gradients = losses_numpy.gradient(
            lambda a, b: losses_numpy.nt_xent(a, b, temperature), z1, z2
        )
        LOOP_REFERENCES[key] = losses_numpy.nt_xent(z1, z2, temperature), gradients
    return LOOP_REFERENCES[key]


def assert_matches_loops(loss, gradients, z1, z2, temperature=0.1, rtol=3e-6, of_largest=1e-5):
    """Compares with NumPy loops; gradients may differ by ``of_largest`` times the largest entry."""
    value, expected = loop_reference(z1, z2, temperature)
    assert float(loss) == pytest.approx(value, rel=rtol, abs=rtol)
    for ours, theirs in zip(gradients, expected, strict=True):
        bound = of_largest * np.abs(theirs).max()
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("devices", [slow(1), 8])
def test_float32_agrees_with_the_loop(devices, tile):
    z1, z2 = draw(16, 32, seed=3)
    step = on_devices(lambda a, b: nt_xent(a, b, axis_name="data", tile_size=tile), devices)
    # A float32 similarity has an error of a few 1e-7. Division by 0.1 makes it a few 1e-6.
    assert_matches_loops(*step(z1.astype(np.float32), z2.astype(np.float32)), z1, z2)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 9),
    tile=st.integers(1, 45),
    temperature=st.floats(0.05, 2.0),
)
def test_tiles_of_any_size_give_the_loss_of_the_whole(n, d, tile, temperature):
    z1, z2 = draw(n, d, seed=n + 100 * d)
    with jax.enable_x64(True):
        loss, gradients = value_and_gradients(z1, z2, temperature, tile)
    # Everything is float64. Gradients scale with 1 / temperature, so a zero gradient is compared
    # with that.
    expected = losses_numpy.gradient(lambda a, b: losses_numpy.nt_xent(a, b, temperature), z1, z2)
    assert float(loss) == pytest.approx(
        losses_numpy.nt_xent(z1, z2, temperature), rel=1e-11, abs=1e-12
    )
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 / temperature)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("devices", [slow(1), 4])
@pytest.mark.parametrize("n", [8, slow(16)])
def test_equal_vectors_give_the_chance_level(n, devices, tile):
    equal = np.ones((n, 7), np.float32)
    step = on_devices(lambda a, b: nt_xent(a, b, axis_name="data", tile_size=tile), devices)
    loss, _ = step(equal, equal)
    assert float(loss) == pytest.approx(math.log(2 * n - 1), rel=1e-6)
    assert chance_level(n) == math.log(2 * n - 1)


def test_the_loss_is_invariant_to_swapping_views_and_to_norms():
    z1, z2 = (z.astype(np.float32) for z in draw(8, 4, seed=2))
    loss = float(nt_xent(z1, z2))
    assert float(nt_xent(z2, z1)) == pytest.approx(loss, rel=1e-6)
    assert float(nt_xent(100 * z1, 0.01 * z2)) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("tile", TILES)
def test_metrics_follow_from_the_softmax_over_all_other_rows(tile):
    z1, z2 = draw(9, 3, seed=5)
    z, partner = losses_numpy.rows_of(z1, z2)
    hits, entropies = 0, []
    for i in range(18):
        similarity = z @ z[i]
        others = [k for k in range(18) if k != i]
        hits += max(others, key=lambda k, s=similarity: s[k]) == partner[i]
        probability = np.exp(similarity[others] / 0.2) / np.exp(similarity[others] / 0.2).sum()
        entropies.append(-np.sum(probability * np.log(probability)))
    contrast = two_view_contrast(z1, z2, temperature=0.2, tile_size=tile)
    assert float(accuracy_from(contrast)) == pytest.approx(hits / 18)
    assert 0 < hits < 18
    assert float(entropy_from(contrast)) == pytest.approx(np.mean(entropies), rel=1e-5)
    assert float(loss_from(contrast)) == pytest.approx(losses_numpy.nt_xent(z1, z2, 0.2), rel=1e-5)


# ---------------------------------------------------------------------------------------- numerics


@pytest.mark.parametrize("tile", TILES)
def test_bfloat16_projections_give_float32_similarities(tile):
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in draw(8, 16))
    loss = nt_xent(z1, z2, tile_size=tile)
    assert loss.dtype == jnp.float32
    exact = losses_numpy.nt_xent(np.asarray(z1, np.float64), np.asarray(z2, np.float64), 0.1)
    assert float(loss) == pytest.approx(exact, rel=3e-6)  # only the inputs are rounded to bfloat16


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("magnitude", [1e-30, slow(1.0), 1e30])
def test_magnitudes_whose_squares_overflow_or_underflow(magnitude, tile):
    z1, z2 = draw(4, 6, seed=7)
    a, b = (z1 * magnitude).astype(np.float32), (z2 * magnitude).astype(np.float32)
    loss, gradients = value_and_gradients(a, b, 0.1, tile)
    gradients = [np.asarray(g, np.float64) * magnitude for g in gradients]
    assert_matches_loops(loss, gradients, z1, z2, rtol=1e-5)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("temperature", [0.01, slow(0.05), slow(5.0)])
def test_temperatures_whose_exponentials_exceed_float32(temperature, tile):
    """At 0.01 logits range from -100 to 100: e^100 overflows and e^-100 is subnormal in float32."""
    z1, z2 = draw(6, 8, seed=9)
    z2[:3] = z1[:3]  # three positives have a logit of 100, all other logits are far below
    loss, gradients = value_and_gradients(
        z1.astype(np.float32), z2.astype(np.float32), temperature, tile
    )
    # Similarities have an error of 1e-7, logits of 1e-7 / temperature.
    bound = 4e-7 / temperature
    assert_matches_loops(
        loss, gradients, z1, z2, temperature, rtol=bound, of_largest=max(1e-5, bound)
    )


@pytest.mark.parametrize("tile", TILES)
def test_a_zero_vector_stays_finite(tile):
    z1, z2 = (z.astype(np.float32) for z in draw(4, 6))
    z1[0] = 0.0
    loss, gradient = jax.value_and_grad(lambda a: nt_xent(a, z2, tile_size=tile))(z1)
    # All logits of the zero vector are 0.
    z = np.concatenate([z1, z2]).astype(np.float64)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300)
    logits = np.where(np.eye(8, dtype=bool), -np.inf, z @ z.T / 0.1)
    positive = logits[np.arange(8), (np.arange(8) + 4) % 8]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - positive)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(normalize_rows(jnp.zeros((1, 3))), np.zeros((1, 3)))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("n", [2, slow(5)])
def test_duplicates_among_examples_and_views(n, tile):
    z1, _ = draw(n, 4, seed=11)
    z1[1] = z1[0]
    loss, gradients = value_and_gradients(z1.astype(np.float32), z1.astype(np.float32), 0.1, tile)
    # Gradients of identical rows cancel; rounding of terms of order 1 / temperature remains.
    assert float(loss) == pytest.approx(losses_numpy.nt_xent(z1, z1, 0.1), rel=1e-5)
    expected = losses_numpy.gradient(lambda a, b: losses_numpy.nt_xent(a, b, 0.1), z1, z1)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", TILES)
def test_the_smallest_batch_has_one_positive_and_no_negative(tile):
    z1, z2 = draw(1, 4)
    assert float(nt_xent(z1, z2, tile_size=tile)) == pytest.approx(0.0, abs=1e-6)  # ln(2 - 1)


# ------------------------------------------------------------------------------ properties of tiles


def on_four_devices(tile, weights):
    """Gradient of the sum of the local losses, weighted differently per device."""

    def weighted_loss(a, b):
        weight = jnp.asarray(weights)[jax.lax.axis_index("data")]
        return 4 * weight * nt_xent(a, b, axis_name="data", tile_size=tile)

    with jax.enable_x64(True):
        return on_devices(weighted_loss, 4)(*draw(8, 5))[1]


def test_tiled_gradients_are_exact_only_if_devices_have_equal_weights():
    whole, tiled = (on_four_devices(tile, [0.25] * 4) for tile in TILES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, tiled)
    whole, tiled = (on_four_devices(tile, [0.1, 0.2, 0.3, 0.4]) for tile in TILES)
    assert np.abs(whole[0] - tiled[0]).max() > 0.01 * np.abs(whole[0]).max()


def test_the_tiled_backward_pass_needs_no_collective_call():
    mesh = spmd.make_mesh(jax.devices()[:4])

    def pull(z1, z2):
        _, backward = jax.vjp(lambda a, b: nt_xent(a, b, axis_name="data", tile_size=4), z1, z2)
        return backward(jnp.float32(1))

    specs = (P("data"), P("data"))
    step = jax.shard_map(pull, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    text = str(jax.make_jaxpr(step)(*(z.astype(np.float32) for z in draw(8, 5))))
    # The forward pass gathers projections and log-sum-exps. The derivative of a gather would be a
    # reduce-scatter.
    assert text.count("all_gather[") == 2
    assert "reduce_scatter" not in text
    assert "psum" not in text


def test_a_tiled_loss_holds_no_array_of_the_size_of_the_matrix():
    n, tile = 512, 64
    shape = jax.ShapeDtypeStruct((n, 16), jnp.float32)

    def memory(tile_size):
        step = jax.jit(jax.value_and_grad(lambda a, b: nt_xent(a, b, tile_size=tile_size)))
        return step.lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    matrix = (2 * n) ** 2 * 4
    assert memory(None) >= matrix
    assert memory(tile) < matrix / 10


@pytest.mark.slow
def test_second_derivatives_need_the_whole_matrix():
    z1, z2 = draw(2, 2)
    with jax.enable_x64(True):
        hessian = jax.jit(jax.hessian(nt_xent))(z1, z2)
        moved = z1 + 1e-6 * np.eye(2)
        slope = jax.jit(jax.grad(nt_xent))
        slopes = [slope(z, z2) for z in (z1, moved)]
        change = np.tensordot(hessian, 1e-6 * np.eye(2), axes=2)
        np.testing.assert_allclose(slopes[1] - slopes[0], change, rtol=1e-3)
    for second in (jax.hessian, lambda f: jax.grad(lambda a, b: jax.grad(f)(a, b).sum())):
        with pytest.raises(UserError, match="first derivatives only; give tile_size=None"):
            second(lambda a, b: nt_xent(a, b, tile_size=3))(z1, z2)


def test_the_tile_size_follows_from_the_matrix_size():
    assert choose_tile(None, 10**6, 10**6) is None
    assert choose_tile(7, 4, 4) == 7
    assert choose_tile("auto", 64, 64) is None
    assert choose_tile("auto", 2**14, 2**14) == 512  # on a CPU


@pytest.mark.parametrize(
    ("backend", "memory", "largest_whole", "tile"),
    [
        # Largest square matrix: 2^18 similarities on a CPU, whatever its memory.
        ("cpu", None, 512, 512),
        ("cpu", 2**40, 512, 512),
        # 12 bytes per similarity in an eighth of the memory: sqrt(60 GiB / 8 / 12) = 25,905.3.
        ("gpu", 60 * 2**30, 25905, 4096),
        ("tpu", 16 * 2**30, 13377, 4096),
        ("gpu", None, 13377, 4096),  # unknown memory is taken as 16 GiB
    ],
)
def test_auto_takes_the_whole_matrix_while_it_fits(backend, memory, largest_whole, tile):
    side = largest_whole
    assert automatic_tile(side, side, backend, memory) is None
    assert automatic_tile(side + 1, side + 1, backend, memory) == tile
    # Rows of one device of eight against all candidates: the number of entries decides.
    assert automatic_tile(side // 8, 8 * side, backend, memory) is None
    assert automatic_tile(side // 8 + 1, 8 * (side + 1), backend, memory) == tile


def test_auto_reads_the_memory_of_the_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for memory, tile in ((80 * 2**30, None), (8 * 2**30, 4096)):
        monkeypatch.setattr(process, "device_memory", lambda device, memory=memory: memory)
        assert choose_tile("auto", 2**14, 2**14) == tile


@pytest.mark.parametrize("tile_size", [0, -3, "all", 2.5])
def test_an_invalid_tile_size_is_rejected(tile_size):
    with pytest.raises(UserError, match=r'give None .*"auto", or a positive number'):
        nt_xent(*draw(4, 3), tile_size=tile_size)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_rejected(temperature):
    with pytest.raises(UserError, match="temperature"):
        nt_xent(*draw(4, 3), temperature=temperature)


def test_views_of_different_shape_are_rejected():
    with pytest.raises(UserError, match=r"\(4, 3\) and \(4, 2\)"):
        nt_xent(np.ones((4, 3)), np.ones((4, 2)))
