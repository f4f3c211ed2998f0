"""Heads: agreement with a forward pass written in NumPy, and the forms of published methods."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.models.heads import MLP, Layer, projection_head
from cssl_jax.models.normalization import NormGroups
from cssl_jax.runtime.spmd import AXIS, make_mesh
from tests.helpers.marks import fast


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


@functools.partial(jax.jit, static_argnames=("head", "train"))
def computed(head, variables, features, train):
    """Outputs of a head, and what it updates: one program in place of one per operation."""
    return head.apply(variables, features, train, mutable=["batch_stats"])


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
    head = projection_head(layers=layers, hidden=7, out=3, norm=norm)
    variables = draw(head, features)
    projections, _ = computed(head, variables, features, train)
    assert projections.shape == (6, 3)
    assert projections.dtype == jnp.float64
    # Both sides are float64 and differ in the order of additions.
    expected = forward(variables, features, layers, train)
    np.testing.assert_allclose(projections, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_batch_norm_replaces_biases_and_the_last_one_has_none(layers):
    shapes = draw(projection_head(layers=layers), np.zeros((2, 5), np.float32))
    params = shapes["params"]
    names = {f"{kind}{i + 1}" for kind in ("dense", "bn") for i in range(layers)}
    assert params.keys() == names
    assert shapes["batch_stats"].keys() == {name for name in names if name.startswith("bn")}
    for i in range(1, layers + 1):
        assert params[f"dense{i}"].keys() == {"kernel"}
        assert params[f"bn{i}"].keys() == ({"scale"} if i == layers else {"scale", "bias"})


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_layer_has_a_bias_without_batch_norm(layers):
    variables = draw(projection_head(layers=layers, norm=False), np.zeros((2, 5), np.float32))
    assert variables.keys() == {"params"}
    assert variables["params"].keys() == {f"dense{i + 1}" for i in range(layers)}
    assert all(dense.keys() == {"kernel", "bias"} for dense in variables["params"].values())


def test_hidden_layers_are_as_wide_as_the_features_by_default():
    features = np.zeros((2, 5), np.float32)
    for hidden, width in ((0, 5), (9, 9)):
        params = draw(projection_head(layers=3, hidden=hidden), features)["params"]
        kernels = [params[f"dense{i}"]["kernel"].shape for i in (1, 2, 3)]
        assert kernels == [(5, width), (width, width), (width, 128)]


def test_projections_and_statistics_are_float32_under_bfloat16_compute():
    features = np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32)
    head = projection_head(hidden=7, out=3, dtype=jnp.bfloat16)
    variables = draw(head, features)
    projections, updates = computed(head, variables, features, True)
    assert projections.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
    expected = forward(variables, features.astype(np.float64), 2, train=True)
    # A few roundings of 2^-9 each, in sums that partly cancel.
    assert np.abs(projections - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(projections - expected).max() > 1e-5


def test_every_batch_norm_uses_the_axis_and_the_groups(float64):
    features = np.random.default_rng(1).normal(size=(8, 5))
    head = projection_head(layers=3, hidden=7, out=3, axis_name=AXIS, norm_groups=2)
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


def widths(*layers):
    """Layers as (width, bias, norm, activation), which is how the tables below write them."""
    return tuple(Layer(*layer) for layer in layers)


# Projectors, predictors and last layers as the methods' reference code builds them, with a tenth of
# the width: (description, options, inputs).
HEADS = {
    "MoCo v2": (widths((204, True, "none", "relu"), (12,)), {"initialisation": "torch"}, 204),
    "MoCo v3 projector, ResNet": (
        widths((409, False, "bn", "relu"), (25, False, "bn_plain")),
        {"initialisation": "torch"},
        204,
    ),
    "MoCo v3 predictor, ResNet": (
        widths((409, False, "bn", "relu"), (25, False)),
        {"initialisation": "torch"},
        25,
    ),
    "MoCo v3 projector, ViT": (
        widths((409, False, "bn", "relu"), (409, False, "bn", "relu"), (25, False, "bn_plain")),
        {},
        38,
    ),
    "BYOL": (widths((409, True, "bn", "relu"), (25, False)), {}, 204),
    "SimSiam projector": (
        widths((204, False, "bn", "relu"), (204, False, "bn", "relu"), (204, False, "bn_plain")),
        {"initialisation": "torch"},
        204,
    ),
    "SimSiam predictor": (
        widths((51, False, "bn", "relu"), (204,)),
        {"initialisation": "torch"},
        204,
    ),
    "SwAV": (
        widths((204, True, "bn", "relu"), (12,)),
        {"initialisation": "torch", "unit_norm": True},
        204,
    ),
    "SwAV prototypes": (widths((300, False)), {"initialisation": "torch"}, 12),
    "Barlow Twins": (
        widths((819, False, "bn", "relu"), (819, False, "bn", "relu"), (819, False)),
        {"initialisation": "torch"},
        204,
    ),
    "VICReg": (
        widths((819, True, "bn", "relu"), (819, True, "bn", "relu"), (819, False)),
        {"initialisation": "torch"},
        204,
    ),
    "DINO": (
        widths((204, True, "none", "gelu"), (204, True, "none", "gelu"), (25,)),
        {"initialisation": "trunc02", "unit_norm": True},
        38,
    ),
    "DINO last layer": (
        widths((655, False)),
        {"initialisation": "trunc02", "weight_norm": "fixed"},
        25,
    ),
    "DINO last layer with learnt norm": (
        widths((655, False)),
        {"initialisation": "trunc02", "weight_norm": "learnt"},
        25,
    ),
    "NNCLR": (
        widths((204, True, "bn", "relu"), (204, True, "bn", "relu"), (25, True, "bn")),
        {"initialisation": "torch"},
        204,
    ),
    "SupCon": (widths((204, True, "none", "relu"), (12,)), {"unit_norm": True}, 204),
    "SimCLRv2": (
        widths((204, True, "bn", "relu"), (204, True, "bn", "relu"), (12, False, "bn_no_bias")),
        {},
        204,
    ),
    "LeJEPA": (
        widths((204, True, "bn", "relu"), (204, True, "bn", "relu"), (64,)),
        {"initialisation": "torch"},
        38,
    ),
    "TiCo": (widths((409, False, "bn", "relu"), (25, False)), {}, 204),
}
# Standard deviation of kernel and bias by fan_in; lecun_normal is a truncated normal whose variance
# is corrected for the truncation.
DEVIATIONS = {
    "lecun": lambda inputs: (inputs**-0.5, 0.0),
    "torch": lambda inputs: ((3 * inputs) ** -0.5, (3 * inputs) ** -0.5),
    "trunc02": lambda inputs: (0.02, 0.0),
}


@pytest.mark.parametrize("name", fast(HEADS, ["MoCo v2", "TiCo"]))
def test_a_published_head_has_its_parameters_and_initial_values(name):
    layers, options, inputs = HEADS[name]
    features = np.random.default_rng(0).normal(size=(8, inputs)).astype(np.float32)
    # The key is passed to the compiled function: drawing operation by operation takes seconds.
    outputs, variables = jax.jit(MLP(layers, **options).init_with_output)(
        jax.random.key(0, impl="rbg"), features
    )
    assert outputs.shape == (8, layers[-1].width)
    params, expected = variables["params"], {}
    for i, layer in enumerate(layers, start=1):
        shapes = {"kernel": (inputs, layer.width)}
        if layer.bias:
            shapes["bias"] = (layer.width,)
        if options.get("weight_norm") == "learnt":
            shapes["scale"] = (layer.width,)
        expected[f"dense{i}"] = shapes
        affine = {"bn": ("scale", "bias"), "bn_no_bias": ("scale",)}.get(layer.norm, ())
        if affine:
            expected[f"bn{i}"] = dict.fromkeys(affine, (layer.width,))
        kernel, bias = DEVIATIONS[options.get("initialisation", "lecun")](inputs)
        values = np.asarray(params[f"dense{i}"]["kernel"])
        # Four standard errors of a deviation estimated from this many normal values.
        assert values.std() == pytest.approx(kernel, rel=4 / np.sqrt(2 * values.size))
        assert abs(values.mean()) < 4 * kernel / np.sqrt(values.size)
        if layer.bias:
            values = np.asarray(params[f"dense{i}"]["bias"])
            assert values.std() == pytest.approx(bias, rel=4 / np.sqrt(2 * values.size))
            assert np.abs(values).max() <= inputs**-0.5
        inputs = layer.width
    assert jax.tree.map(jnp.shape, params) == expected
    normed = {f"bn{i}" for i, layer in enumerate(layers, start=1) if layer.norm != "none"}
    assert variables.get("batch_stats", {}).keys() == normed
    norms = np.linalg.norm(outputs, axis=1)
    assert np.allclose(norms, 1, atol=1e-6) == options.get("unit_norm", False)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["MoCo v3 projector, ViT", "VICReg", "SwAV", "SupCon"])
def test_a_published_head_matches_the_formula(float64, name, train):
    layers, options, inputs = HEADS[name]
    features = np.random.default_rng(1).normal(size=(6, inputs))
    head = MLP(layers, **options)
    variables = draw(head, features)
    outputs, _ = computed(head, variables, features, train)
    x = features
    for i, layer in enumerate(layers, start=1):
        dense = variables["params"][f"dense{i}"]
        x = x @ dense["kernel"] + dense.get("bias", 0.0)
        if layer.norm != "none":
            norm = variables["params"].get(f"bn{i}", {})
            stats = variables["batch_stats"][f"bn{i}"]
            mean, var = (x.mean(axis=0), x.var(axis=0)) if train else stats.values()
            x = (x - mean) / np.sqrt(var + 1e-5) * norm.get("scale", 1.0) + norm.get("bias", 0.0)
        if layer.activation == "relu":
            x = np.maximum(x, 0.0)
    if options.get("unit_norm"):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    # Both sides are float64; batches of 6 rows magnify rounding a little.
    np.testing.assert_allclose(outputs, x, rtol=1e-8, atol=1e-10)


def test_gelu_is_the_exact_one(float64):
    features = np.linspace(-3, 3, 13)[:, None]
    head = MLP((Layer(1, bias=False, activation="gelu"),))
    outputs = head.apply({"params": {"dense1": {"kernel": np.ones((1, 1))}}}, features)
    expected = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for (x,) in features]
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [None, 3.0])
def test_weight_norm_does_not_depend_on_the_norm_of_the_kernel(float64, scale):
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(4, 5)), rng.normal(size=(5, 7))
    head = MLP((Layer(7, bias=False),), weight_norm="fixed" if scale is None else "learnt")

    def outputs(kernel):
        dense = {"kernel": kernel} if scale is None else {"kernel": kernel, "scale": scale * ones}
        return head.apply({"params": {"dense1": dense}}, features)

    ones = np.ones(7)
    expected = (scale or 1.0) * features @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(outputs(kernel), expected, rtol=1e-12)
    np.testing.assert_allclose(outputs(kernel * np.arange(1, 8)), expected, rtol=1e-12)
    # The gradient is therefore orthogonal to each column.
    gradient = jax.grad(lambda kernel: jnp.square(outputs(kernel)).sum())(kernel)
    np.testing.assert_allclose((gradient * kernel).sum(axis=0), 0, atol=1e-12)


def test_a_row_of_zeros_has_no_direction_and_a_finite_gradient():
    head = MLP((Layer(3, bias=False),), unit_norm=True)
    variables = {"params": {"dense1": {"kernel": jnp.eye(3)}}}
    features = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]])
    gradient = jax.grad(lambda x: head.apply(variables, x).sum())(features)
    np.testing.assert_allclose(head.apply(variables, features), [[0, 0, 0], [0.6, 0, 0.8]])
    assert np.all(np.isfinite(gradient))


def test_heads_of_tokens_act_on_each_token():
    features = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    head = MLP(widths((7, True, "none", "gelu"), (4,)), unit_norm=True)
    variables = head.init(jax.random.key(0), features)
    outputs = head.apply(variables, features)
    rows = head.apply(variables, features.reshape(6, 5))
    np.testing.assert_allclose(outputs, rows.reshape(2, 3, 4), rtol=1e-5, atol=1e-6)


def test_batch_norm_of_a_head_normalises_views_apart(float64):
    features = np.random.default_rng(1).normal(size=(8, 5))
    head = projection_head(layers=2, hidden=7, out=3)
    apart = projection_head(
        layers=2, hidden=7, out=3, norm_groups=NormGroups(examples=4, views="apart")
    )
    variables = draw(head, features)
    outputs, _ = computed(apart, variables, features, True)
    for view in (0, 1):
        expected = forward(variables, features[view::2], 2, train=True)
        np.testing.assert_allclose(outputs[view::2], expected, rtol=1e-9, atol=1e-11)
