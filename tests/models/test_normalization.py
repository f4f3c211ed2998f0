"""BatchNorm over devices and groups: agreement with the formulas of arXiv 1502.03167 in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.errors import UserError
from cssl_jax.models.normalization import BatchNorm
from cssl_jax.runtime.spmd import AXIS, make_mesh

SHAPE = (16, 2, 3, 5)
EPSILON, MOMENTUM = 1e-5, 0.9


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed=0):
    """(inputs, loss weights, variables that differ from the initial ones) in float64."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, SHAPE) * np.arange(1, SHAPE[0] + 1)[:, None, None, None]
    params = {"scale": rng.normal(size=SHAPE[-1]), "bias": rng.normal(size=SHAPE[-1])}
    stats = {"mean": rng.normal(size=SHAPE[-1]), "var": rng.uniform(0.5, 2.0, SHAPE[-1])}
    return x, rng.normal(size=SHAPE), {"params": params, "batch_stats": stats}


def by_hand(x, weights, variables, groups):
    """NumPy reference: outputs, gradients of sum(outputs * weights) / N, running statistics."""
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    y, dx = np.zeros_like(x), np.zeros_like(x)
    dscale, dbias, means, variances = np.zeros_like(scale), np.zeros_like(bias), [], []
    size = len(x) // groups
    for rows in (slice(g * size, (g + 1) * size) for g in range(groups)):
        for c in range(x.shape[-1]):
            values, dy = x[rows, ..., c], weights[rows, ..., c] / len(x)
            mean = values.mean()
            var = ((values - mean) ** 2).mean()
            normal = (values - mean) / np.sqrt(var + EPSILON)
            y[rows, ..., c] = normal * scale[c] + bias[c]
            # Gradient of section 3 of the paper, with its three terms collected.
            inner = dy - dy.mean() - normal * (dy * normal).mean()
            dx[rows, ..., c] = scale[c] / np.sqrt(var + EPSILON) * inner
            dscale[c] += (dy * normal).sum()
            dbias[c] += dy.sum()
            means.append(mean)
            variances.append(var)
    stats = {}
    for name, values in (("mean", means), ("var", variances)):
        average = np.reshape(values, (groups, -1)).mean(axis=0)
        stats[name] = MOMENTUM * variables["batch_stats"][name] + (1 - MOMENTUM) * average
    return y, ({"scale": dscale, "bias": dbias}, dx), {"batch_stats": stats}


def on_devices(devices, groups, x, weights, variables):
    """Outputs, gradients and running statistics of ``BatchNorm`` on ``devices`` devices."""
    module = BatchNorm(axis_name=AXIS, groups=groups)

    def loss(params, x, weights, stats):
        variables = {"params": params, "batch_stats": stats}
        y, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return (y * weights).sum() / len(x), (y, updates)

    def step(variables, x, weights):
        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (dparams, dx), (y, updates) = gradient(
            variables["params"], x, weights, variables["batch_stats"]
        )
        # The global loss is the mean of the local losses; each row is on one device.
        return y, (jax.lax.pmean(dparams, AXIS), dx / devices), updates

    mesh = make_mesh(jax.devices()[:devices])
    out_specs = (P(AXIS), (P(), P(AXIS)), P())
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped)(variables, x, weights)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_statistics_of_a_group_do_not_depend_on_the_number_of_devices(float64, devices, groups):
    x, weights, variables = draw()
    actual = on_devices(devices, groups, x, weights, variables)
    expected = by_hand(x, weights, variables, groups)

    def check(a, b):
        assert a.dtype == np.float64
        # Both sides are float64 and differ in the order of additions.
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)

    jax.tree.map(check, actual, expected)
    first, *others = (
        np.asarray(s.data) for s in actual[2]["batch_stats"]["mean"].addressable_shards
    )
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(("devices", "groups", "rows"), [(1, 4, 6), (2, 8, 12), (2, 3, 12)])
def test_groups_that_split_images_or_devices_unevenly_are_rejected(devices, groups, rows):
    # With 6 positions per image, the number of positions would be divisible.
    x, weights, variables = draw()
    with pytest.raises(UserError, match=f"{groups} BatchNorm groups"):
        on_devices(devices, groups, x[:rows], weights[:rows], variables)


def test_evaluation_uses_running_statistics_without_an_axis(float64):
    x, _, variables = draw()
    module = BatchNorm(axis_name=AXIS, groups=8)
    y, updates = module.apply(variables, x, train=False, mutable=["batch_stats"])
    stats, params = variables["batch_stats"], variables["params"]
    normal = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON)
    expected = normal * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for name, value in stats.items():
        np.testing.assert_array_equal(updates["batch_stats"][name], value)


def test_initialisation_needs_no_axis_and_keeps_initial_statistics():
    x = jnp.ones((1, 5))
    variables = BatchNorm(axis_name=AXIS, groups=8).init(jax.random.key(0), x, train=True)
    zeros, ones = np.zeros(5), np.ones(5)
    expected = {
        "params": {"scale": ones, "bias": zeros},
        "batch_stats": {"mean": zeros, "var": ones},
    }
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_scale_and_bias_are_optional():
    x = jnp.ones((2, 5))
    for use_scale, use_bias in ((False, True), (True, False), (False, False)):
        module = BatchNorm(use_scale=use_scale, use_bias=use_bias)
        params = module.init(jax.random.key(0), x, train=False).get("params", {})
        assert ("scale" in params, "bias" in params) == (use_scale, use_bias)


def apply_once(x, mean, **options):
    """(output, statistics of the batch), starting from running statistics (mean, 1)."""
    module = BatchNorm(use_scale=False, use_bias=False, momentum=0.0, **options)
    channels = x.shape[-1]
    stats = {"mean": jnp.full((channels,), mean), "var": jnp.ones((channels,))}
    return module.apply({"batch_stats": stats}, x, train=True, mutable=["batch_stats"])


def test_variance_is_accurate_if_the_running_mean_is_close_to_a_large_mean():
    x = np.random.default_rng(0).normal(1000.0, 1.0, (4096, 3)).astype(np.float32)
    var = x.astype(np.float64).var(axis=0)
    _, near = apply_once(x, 999.0)
    # x - 999 is exact and of order 1, so only the mean of 4,096 squares is rounded.
    np.testing.assert_allclose(near["batch_stats"]["var"], var, rtol=1e-5)
    # Without the shift, squares near 1e6 have a spacing of 0.06 in float32.
    _, far = apply_once(x, 0.0)
    assert np.all(np.isfinite(far["batch_stats"]["var"]))
    assert np.all(far["batch_stats"]["var"] >= 0)


def test_output_is_finite_for_a_constant_channel():
    y, updates = apply_once(jnp.full((64, 3), 1000.1), 0.3)
    assert np.all(np.isfinite(y))
    assert np.all(updates["batch_stats"]["var"] >= 0)


def test_bfloat16_input_has_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 1.0, (4096, 3)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    y, updates = apply_once(x, 0.0, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    stats = updates["batch_stats"]
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    # A sum in bfloat16, with 8 bits, would have an error of 1e-2 or more.
    np.testing.assert_allclose(stats["mean"], exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], exact.var(axis=0), rtol=1e-4)
    normal = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + EPSILON)
    # The output is rounded once, at the end: half a unit in the last of 8 bits.
    np.testing.assert_allclose(np.asarray(y, np.float64), normal, rtol=2**-8, atol=1e-5)


def test_output_dtype_follows_the_parameters_by_default():
    x = jnp.ones((4, 3), jnp.bfloat16)
    y, _ = BatchNorm().init_with_output(jax.random.key(0), x, train=False)
    assert y.dtype == jnp.float32
