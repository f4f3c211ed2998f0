"""Projection heads: agreement with a forward pass written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.models.heads import ProjectionHead
from cssl_jax.runtime.spmd import AXIS, make_mesh


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def draw(head, features, seed=0):
    """Random variables that differ from the initial zeros and ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(head.init, jax.random.key(0), features)
    # Positive values, because running variances are among the variables.
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1.0, leaf.shape).astype(leaf.dtype), shapes)


def forward(variables, features, layers, train):
    """Forward pass: dense, BatchNorm if present, and ReLU on all layers except the last."""
    x = features
    for i in range(1, layers + 1):
        dense = variables["params"][f"dense{i}"]
        x = x @ dense["kernel"] + dense.get("bias", 0.0)
        if f"bn{i}" in variables["params"]:
            norm = variables["params"][f"bn{i}"]
            stats = variables["batch_stats"][f"bn{i}"]
            mean = x.mean(axis=0) if train else stats["mean"]
            var = x.var(axis=0) if train else stats["var"]
            x = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm.get("bias", 0.0)
        if i < layers:
            x = np.maximum(x, 0.0)
    return x


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projections_match_the_formula(float64, layers, norm, train):
    features = np.random.default_rng(1).normal(size=(6, 5))
    head = ProjectionHead(layers=layers, hidden=7, out=3, norm=norm)
    variables = draw(head, features)
    projections, _ = head.apply(variables, features, train, mutable=["batch_stats"])
    assert projections.shape == (6, 3)
    assert projections.dtype == jnp.float64
    # Both sides are float64 and differ in the order of additions.
    expected = forward(variables, features, layers, train)
    np.testing.assert_allclose(projections, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_batch_norm_replaces_biases_and_the_last_one_has_none(layers):
    shapes = draw(ProjectionHead(layers=layers), np.zeros((2, 5), np.float32))
    params = shapes["params"]
    names = {f"{kind}{i + 1}" for kind in ("dense", "bn") for i in range(layers)}
    assert params.keys() == names
    assert shapes["batch_stats"].keys() == {name for name in names if name.startswith("bn")}
    for i in range(1, layers + 1):
        assert params[f"dense{i}"].keys() == {"kernel"}
        assert params[f"bn{i}"].keys() == ({"scale"} if i == layers else {"scale", "bias"})


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_layer_has_a_bias_without_batch_norm(layers):
    variables = draw(ProjectionHead(layers=layers, norm=False), np.zeros((2, 5), np.float32))
    assert variables.keys() == {"params"}
    assert variables["params"].keys() == {f"dense{i + 1}" for i in range(layers)}
    assert all(dense.keys() == {"kernel", "bias"} for dense in variables["params"].values())


def test_hidden_layers_are_as_wide_as_the_features_by_default():
    features = np.zeros((2, 5), np.float32)
    for hidden, width in ((0, 5), (9, 9)):
        params = draw(ProjectionHead(layers=3, hidden=hidden), features)["params"]
        kernels = [params[f"dense{i}"]["kernel"].shape for i in (1, 2, 3)]
        assert kernels == [(5, width), (width, width), (width, 128)]


def test_projections_and_statistics_are_float32_under_bfloat16_compute():
    features = np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32)
    head = ProjectionHead(hidden=7, out=3, dtype=jnp.bfloat16)
    variables = draw(head, features)
    projections, updates = head.apply(variables, features, True, mutable=["batch_stats"])
    assert projections.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
    expected = forward(variables, features.astype(np.float64), 2, train=True)
    # A few roundings of 2^-9 each, in sums that partly cancel.
    assert np.abs(projections - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(projections - expected).max() > 1e-5


def test_every_batch_norm_uses_the_axis_and_the_groups(float64):
    features = np.random.default_rng(1).normal(size=(8, 5))
    head = ProjectionHead(layers=3, hidden=7, out=3, axis_name=AXIS, norm_groups=2)
    variables = draw(head, features)
    mapped = jax.shard_map(
        lambda v, x: head.apply(v, x, True, mutable=["batch_stats"])[0],
        mesh=make_mesh(jax.devices()[:4]),
        in_specs=(P(), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )
    expected = [forward(variables, part, 3, train=True) for part in np.split(features, 2)]
    # Both sides are float64. Groups of only 4 rows magnify rounding a little.
    np.testing.assert_allclose(
        jax.jit(mapped)(variables, features), np.concatenate(expected), rtol=1e-9, atol=1e-11
    )
