import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax import parallel
from cssl_jax.errors import UserError
from cssl_jax.losses import nt_xent
from cssl_jax.losses.ntxent import accuracy_from, chance_level, contrast
from cssl_jax.losses.similarity import unit_length


def loop_nt_xent(z1, z2, temperature):
    """Algorithm 1 of arXiv 2002.05709 as a double loop; complex input passes through."""
    z = [row / np.sqrt(np.sum(row * row)) for row in np.concatenate([z1, z2])]
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        denominator = sum(np.exp(np.sum(z[i] * z[k]) / temperature) for k in range(2 * n) if k != i)
        total = total - np.sum(z[i] * z[partner]) / temperature + np.log(denominator)
    return total / (2 * n)


def loop_gradient(z1, z2, temperature):
    """Complex-step derivative of the double loop: exact to rounding, with no step to choose."""
    gradients = []
    for which in (0, 1):
        gradient = np.zeros_like(z1)
        for index in np.ndindex(z1.shape):
            moved = [z1.astype(complex), z2.astype(complex)]
            moved[which][index] += 1e-30j
            gradient[index] = loop_nt_xent(*moved, temperature).imag / 1e-30
        gradients.append(gradient)
    return gradients


def draw(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


def on_devices(function, devices):
    """The per-device share and gradient, averaged over the axis as a train step does."""
    mesh = parallel.make_mesh(jax.devices()[:devices])

    def local(z1, z2):
        loss, grads = jax.value_and_grad(function, argnums=(0, 1))(z1, z2)
        # Rows live on one device each, so the mean over devices is a division, not a sum.
        return jax.lax.pmean(loss, "data"), jax.tree.map(lambda g: g / devices, grads)

    specs = (P("data"), P("data"))
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), specs), check_vma=False)
    )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_and_gradient_equal_the_float64_loop_on_any_number_of_devices(devices, temperature):
    z1, z2 = draw(8, 5)
    with jax.enable_x64(True):
        step = on_devices(
            lambda a, b: nt_xent(a, b, temperature=temperature, axis_name="data"), devices
        )
        loss, gradients = step(z1, z2)
    # float64 against float64: only the order of a few hundred sums differs.
    assert float(loss) == pytest.approx(loop_nt_xent(z1, z2, temperature), rel=1e-12)
    for ours, theirs in zip(gradients, loop_gradient(z1, z2, temperature), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("devices", [1, 8])
def test_float32_agrees_with_the_loop(devices):
    z1, z2 = draw(16, 32, seed=3)
    step = on_devices(lambda a, b: nt_xent(a, b, axis_name="data"), devices)
    loss, gradients = step(z1.astype(np.float32), z2.astype(np.float32))
    # A similarity is good to a few 1e-7, and dividing by 0.1 makes logits good to a few 1e-6.
    assert float(loss) == pytest.approx(loop_nt_xent(z1, z2, 0.1), rel=3e-6)
    for ours, theirs in zip(gradients, loop_gradient(z1, z2, 0.1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_without_an_axis_it_is_the_same_loss():
    z1, z2 = draw(6, 4, seed=1)
    with jax.enable_x64(True):
        assert float(nt_xent(z1, z2)) == pytest.approx(loop_nt_xent(z1, z2, 0.1), rel=1e-12)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [8, 16])
def test_equal_vectors_give_the_chance_level(n, devices):
    equal = np.ones((n, 7), np.float32)
    step = on_devices(lambda a, b: nt_xent(a, b, axis_name="data"), devices)
    loss, _ = step(equal, equal)
    assert float(loss) == pytest.approx(math.log(2 * n - 1), rel=1e-6)
    assert chance_level(n) == math.log(2 * n - 1)


def test_the_views_are_interchangeable_and_length_does_not_matter():
    z1, z2 = (z.astype(np.float32) for z in draw(8, 4, seed=2))
    loss = float(nt_xent(z1, z2))
    assert float(nt_xent(z2, z1)) == pytest.approx(loss, rel=1e-6)
    assert float(nt_xent(100 * z1, 0.01 * z2)) == pytest.approx(loss, rel=1e-6)


def test_accuracy_counts_anchors_nearer_to_their_positive_than_to_all_others():
    z1, z2 = draw(9, 3, seed=5)
    z = np.concatenate([z1, z2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    hits = 0
    for i in range(18):
        similarity = z @ z[i]
        positive = similarity[(i + 9) % 18]
        hits += all(positive > similarity[k] for k in range(18) if k not in (i, (i + 9) % 18))
    assert float(accuracy_from(contrast(z1, z2))) == pytest.approx(hits / 18)
    assert 0 < hits < 18


def test_bfloat16_projections_give_a_float32_loss():
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in draw(8, 16))
    loss = nt_xent(z1, z2)
    assert loss.dtype == jnp.float32
    exact = loop_nt_xent(np.asarray(z1, np.float64), np.asarray(z2, np.float64), 0.1)
    assert float(loss) == pytest.approx(exact, rel=3e-6)  # inputs are rounded, sums are not


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_magnitudes_that_would_overflow_or_vanish_when_squared(magnitude):
    z1, z2 = draw(4, 6, seed=7)
    a, b = (z1 * magnitude).astype(np.float32), (z2 * magnitude).astype(np.float32)
    loss, gradient = jax.value_and_grad(nt_xent)(a, b)
    assert float(loss) == pytest.approx(loop_nt_xent(z1, z2, 0.1), rel=1e-5)
    expected = loop_gradient(z1, z2, 0.1)[0]
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64) * magnitude, expected, atol=1e-5 * np.abs(expected).max()
    )


def test_a_zero_vector_stays_finite():
    z1, z2 = (z.astype(np.float32) for z in draw(4, 6))
    z1[0] = 0.0
    loss, gradient = jax.value_and_grad(nt_xent)(z1, z2)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(unit_length(jnp.zeros((1, 3))), np.zeros((1, 3)))


def test_the_smallest_batch_has_one_positive_and_no_negative():
    z1, z2 = draw(1, 4)
    assert float(nt_xent(z1, z2)) == pytest.approx(0.0, abs=1e-6)  # ln(2 * 1 - 1)


def test_a_traced_temperature_has_a_gradient():
    z1, z2 = draw(6, 4, seed=4)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda t: nt_xent(z1, z2, temperature=t))(0.3)
    expected = loop_nt_xent(z1, z2, 0.3 + 1e-30j).imag / 1e-30
    assert float(gradient) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UserError, match="temperature"):
        nt_xent(*draw(4, 3), temperature=temperature)


def test_views_of_different_shape_are_refused():
    with pytest.raises(UserError, match=r"\(4, 3\) and \(4, 2\)"):
        nt_xent(np.ones((4, 3)), np.ones((4, 2)))
