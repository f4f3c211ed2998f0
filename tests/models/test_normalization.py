"""BatchNorm over devices and groups: agreement with the formulas of arXiv 1502.03167 in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.errors import UserError
from cssl_jax.models.normalization import BatchNorm, NormGroups
from cssl_jax.runtime.spmd import AXIS, make_mesh
from tests.helpers.marks import slow

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


def contiguous(groups, rows=SHAPE[0]):
    """Group of every row, for contiguous groups."""
    return np.arange(rows) // (rows // groups)


def by_hand(x, weights, variables, cells, *, views=1, mask=None):
    """NumPy reference: outputs, gradients of sum(outputs * weights) / N, running statistics.

    Rows with equal numbers in ``cells`` (group * views + view) share statistics. ``mask`` can be
    broadcast to the positions of x and is True where they count.
    """
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    running = variables["batch_stats"]
    mask = np.broadcast_to(True if mask is None else mask, x.shape[:-1])
    y, dx = np.zeros_like(x), np.zeros_like(x)
    dscale, dbias = np.zeros_like(scale), np.zeros_like(bias)
    count = cells.max() + 1
    means, variances = np.zeros((2, count, x.shape[-1]))
    for cell in range(count):
        for c in range(x.shape[-1]):
            rows = cells == cell
            values, dy, kept = x[rows, ..., c], weights[rows, ..., c] / len(x), mask[rows]
            if kept.any():
                mean = values[kept].mean()
                var = ((values[kept] - mean) ** 2).mean()
            else:
                mean, var = running["mean"][c], running["var"][c]
            normal = (values - mean) / np.sqrt(var + EPSILON)
            y[rows, ..., c] = normal * scale[c] + bias[c]
            # Gradient of section 3 of the paper, with its three terms collected. The statistics
            # depend on the counted positions, and all positions depend on the statistics.
            total = dy.sum() + normal * (dy * normal).sum()
            inner = dy - kept * total / max(kept.sum(), 1)
            dx[rows, ..., c] = scale[c] / np.sqrt(var + EPSILON) * inner
            dscale[c] += (dy * normal).sum()
            dbias[c] += dy.sum()
            means[cell, c], variances[cell, c] = mean, var
    stats = {}
    for name, values in (("mean", means), ("var", variances)):
        stats[name] = running[name]
        for view in range(views):
            average = values[view::views].mean(axis=0)
            stats[name] = MOMENTUM * stats[name] + (1 - MOMENTUM) * average
    return y, ({"scale": dscale, "bias": dbias}, dx), {"batch_stats": stats}


def on_devices(devices, groups, x, weights, variables, mask=None):
    """Outputs, gradients and running statistics of ``BatchNorm`` on ``devices`` devices."""
    module = BatchNorm(axis_name=AXIS, groups=groups)

    def loss(params, x, weights, stats, mask):
        variables = {"params": params, "batch_stats": stats}
        y, updates = module.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
        return (y * weights).sum() / len(x), (y, updates)

    def step(variables, x, weights, mask):
        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (dparams, dx), (y, updates) = gradient(
            variables["params"], x, weights, variables["batch_stats"], mask
        )
        # The global loss is the mean of the local losses; each row is on one device.
        return y, (jax.lax.pmean(dparams, AXIS), dx / devices), updates

    mesh = make_mesh(jax.devices()[:devices])
    out_specs = (P(AXIS), (P(), P(AXIS)), P())
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS), P(AXIS)),
        out_specs=out_specs,
        check_vma=False,
    )
    return jax.jit(mapped)(variables, x, weights, mask)


def assert_near(actual, expected):
    """Compares trees in float64; both sides differ in the order of additions only."""

    def check(a, b):
        assert a.dtype == np.float64
        assert np.abs(a - b).max() <= 1e-12 * max(np.abs(b).max(), 1.0)

    jax.tree.map(check, actual, expected)


def assert_statistics_are_replicated(results):
    for leaf in jax.tree.leaves(results[2]):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("devices", [slow(1), slow(2), slow(4), 8])
def test_statistics_of_a_group_do_not_depend_on_the_number_of_devices(float64, devices, groups):
    x, weights, variables = draw()
    actual = on_devices(devices, groups, x, weights, variables)
    assert_near(actual, by_hand(x, weights, variables, contiguous(groups)))
    assert_statistics_are_replicated(actual)


EXAMPLE, VIEW = np.divmod(np.arange(SHAPE[0]), 2)  # of every row: 8 examples with 2 views each
LENGTHS = np.arange(SHAPE[0]) % (SHAPE[1] + 1)  # counted steps of every row: 0, 1, 2, 0, ...
STEPS = np.arange(SHAPE[1]) < LENGTHS[:, None]
ROWS = np.arange(SHAPE[0]) % 3 > 0
# name: (groups, cell of every row by hand, number of views normalised apart, mask)
CELLS = {
    "views apart": (NormGroups(examples=8, views="apart"), VIEW, 2, None),
    "four groups, views apart": (
        NormGroups(count=4, examples=8, views="apart"),
        EXAMPLE // 2 * 2 + VIEW,
        2,
        None,
    ),
    "four views apart": (
        NormGroups(examples=4, views="apart"),
        np.arange(SHAPE[0]) % 4,
        4,
        None,
    ),
    "strided": (NormGroups(count=4, examples=8, order="strided"), EXAMPLE % 4, 1, None),
    "strided, a group per example": (
        NormGroups(count=8, examples=8, order="strided"),
        EXAMPLE,
        1,
        None,
    ),
    "strided, views apart": (
        NormGroups(count=2, examples=8, order="strided", views="apart"),
        EXAMPLE % 2 * 2 + VIEW,
        2,
        None,
    ),
    "mask of rows": (1, contiguous(1), 1, ROWS),
    "mask of steps": (4, contiguous(4), 1, STEPS),
    # Rows 12 to 15 and the second view of the first group do not count at all.
    "mask of whole cells": (
        NormGroups(count=4, examples=8, views="apart"),
        EXAMPLE // 2 * 2 + VIEW,
        2,
        STEPS & (EXAMPLE < 6)[:, None] & ((EXAMPLE >= 2) | (VIEW == 0))[:, None],
    ),
}


@pytest.mark.parametrize("devices", [slow(1), slow(2), slow(4), 8])
@pytest.mark.parametrize("name", CELLS)
def test_views_strides_and_masks_are_those_of_the_formula_on_any_devices(float64, name, devices):
    groups, cells, views, mask = CELLS[name]
    x, weights, variables = draw()
    actual = on_devices(devices, groups, x, weights, variables, mask)
    if mask is not None and mask.ndim == 2:
        mask = mask[:, :, None]
    elif mask is not None:
        mask = mask[:, None, None]
    assert_near(actual, by_hand(x, weights, variables, cells, views=views, mask=mask))
    assert_statistics_are_replicated(actual)


def test_views_apart_are_views_encoded_one_after_another(float64):
    x, weights, variables = draw()
    y, _, updates = on_devices(2, NormGroups(examples=8, views="apart"), x, weights, variables)
    for view in (0, 1):
        one, _, later = on_devices(2, 1, x[view::2], weights[view::2], variables)
        np.testing.assert_allclose(y[view::2], one, rtol=1e-12, atol=1e-12)
        variables = {**variables, **jax.device_get(later)}
    assert_near(updates["batch_stats"], variables["batch_stats"])


def test_padding_changes_neither_outputs_nor_gradients(float64):
    x, weights, variables = draw()
    padded = np.concatenate([x, np.full((len(x), 7, *x.shape[2:]), 1e3)], axis=1)
    mask = np.arange(padded.shape[1]) < x.shape[1]
    mask = np.broadcast_to(mask, (len(x), padded.shape[1]))
    no_weights = np.zeros((len(x), 7, *x.shape[2:]))
    y, (dparams, dx), updates = on_devices(
        2, 2, padded, np.concatenate([weights, no_weights], axis=1), variables, mask
    )
    expected = on_devices(2, 2, x, weights, variables)
    kept = x.shape[1]
    assert_near((y[:, :kept], (dparams, dx[:, :kept]), updates), expected)
    np.testing.assert_array_equal(dx[:, kept:], 0)


@pytest.mark.parametrize(
    "groups",
    [
        NormGroups(views="apart"),  # the number of examples is not known
        NormGroups(examples=3, views="apart"),
        NormGroups(examples=32, views="apart"),
        NormGroups(count=3, examples=8, order="strided"),
    ],
)
def test_examples_that_fit_neither_rows_nor_groups_are_rejected(groups):
    x, weights, variables = draw()
    message = f"{groups.count} BatchNorm groups .* over {groups.examples} examples in 16 rows"
    with pytest.raises(UserError, match=message):
        on_devices(2, groups, x, weights, variables)


@pytest.mark.parametrize("devices", [1, 8])
def test_joint_contiguous_groups_compile_to_the_same_program_as_their_number(devices):
    x, _, variables = draw()

    def program(groups):
        module = BatchNorm(axis_name=AXIS, groups=groups)
        mapped = jax.shard_map(
            lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]),
            mesh=make_mesh(jax.devices()[:devices]),
            in_specs=(P(), P(AXIS)),
            out_specs=(P(AXIS), P()),
            check_vma=False,
        )
        return jax.jit(mapped).lower(variables, x).as_text()

    assert program(NormGroups(count=2, examples=8)) == program(2)
    assert program(NormGroups(count=2, examples=8, views="apart")) != program(2)


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
