"""Vision Transformers: agreement with timm, with NumPy loops and with numbers of the papers."""

import functools
import json
import math
import pathlib
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop.vit.timm_vit import from_timm, to_timm
from cssl_jax.models.registry import build_encoder, encoders_for
from cssl_jax.models.vit import ViT
from tests.helpers.marks import fast

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "goldens"
# Imported by path: timm.npz was created with the same functions.
seeded = types.SimpleNamespace(**runpy.run_path(str(GOLDENS / "seeded_weights.py")))
STORED = 1e-6  # relative tolerance: both sides compute in float64, goldens are stored in float32
CASES = ("tiny", "small", "small_12_heads", "tiny_mean")
HIDDEN = {"vit_tiny_patch16_224": 192, "vit_small_patch16_224": 384}
# Parameters of timm's models without a classifier, at 224 px: its results-imagenet.csv states
# 5.72, 22.05, 86.57 and 304.33 million with the classifier of 1,000 classes.
MILLIONS = {"vit_tiny": 5.72, "vit_small": 22.05, "vit_base": 86.57, "vit_large": 304.33}
WIDTHS = {"vit_tiny": 192, "vit_small": 384, "vit_base": 768, "vit_large": 1024}

SMALL = ViT(layers=2, hidden=24, heads=3, patch=4)
SIZE, PATCHES = 16, 16


@functools.cache
def goldens():
    with np.load(GOLDENS / "timm.npz") as stored:
        return dict(stored)


def encoder_of(case):
    """(our encoder, its input's shape) of a case of the goldens."""
    options = json.loads(str(goldens()[f"{case}/options"]))
    return ViT(
        layers=3,
        hidden=HIDDEN[str(goldens()[f"{case}/name"])],
        patch=options.get("patch_size", 16),
        heads=options.get("num_heads", 0),
        pool="mean" if options.get("global_pool") == "avg" else "token",
        layer_scale=options.get("init_values", 0.0),
    ), tuple(goldens()[f"{case}/input_shape"])


@functools.cache
def computed(case, heads=None):
    """Outputs of our encoder in float64 with the weights and images of a case."""
    encoder, shape = encoder_of(case)
    encoder = encoder if heads is None else encoder.clone(heads=heads)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros(shape))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    keys = {key: array.shape for key, array in to_timm(zeros, shape[-1]).items()}
    seed = int(goldens()[f"{case}/seed"])
    variables = from_timm(seeded.seeded_weights(keys, seed))
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(encoder.apply)(variables, seeded.seeded_images(shape, seed)))


@pytest.mark.parametrize("case", CASES)
def test_features_tokens_and_stages_are_those_of_timm(case):
    found = computed(case)
    assert found["features"].dtype == np.float64
    pairs = [(found["features"], "features"), (seeded.sample(found["tokens"]), "tokens")]
    pairs += [(seeded.sample(stage), f"stage{i}") for i, stage in enumerate(found["stages"], 1)]
    for ours, what in pairs:
        theirs = goldens()[f"{case}/{what}"]
        np.testing.assert_allclose(ours, theirs, rtol=STORED, atol=STORED * np.abs(theirs).max())


def test_another_number_of_heads_is_seen_in_the_features_alone():
    found = computed("small_12_heads", heads=6)["features"]
    right = goldens()["small_12_heads/features"]
    assert np.abs(found - right).max() > 0.1 * np.abs(right).max()
    assert found.shape == right.shape


@pytest.mark.parametrize("name", fast(WIDTHS, ["vit_tiny"]))
def test_sizes_are_those_of_timm(name):
    encoder = build_encoder(name, axis_name=None, norm_groups=1)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
    assert set(shapes) == {"params"}
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert round((count + 1000 * (WIDTHS[name] + 1)) / 1e6, 2) == MILLIONS[name]
    out = jax.eval_shape(encoder.apply, shapes, images)
    assert out["features"].shape == (1, WIDTHS[name])
    assert out["tokens"].shape == (1, 196, WIDTHS[name])
    assert {stage.shape for stage in out["stages"]} == {(1, 14, 14, WIDTHS[name])}
    assert len(out["stages"]) == encoder.num_stages == {"vit_large": 24}.get(name, 12)


# ------------------------------------------------------------------------------------ its contract


def images(rows=4, size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, size, size, 3)).astype(np.float32)


@functools.cache
def variables(encoder=SMALL):
    """Parameters with effects of their own: biases are no zeros, scales no ones."""
    made = jax.jit(encoder.init)(jax.random.key(0), images())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.asarray(x + 0.3 * rng.normal(size=x.shape), x.dtype), made)


@functools.cache
def compiled(encoder, **options):
    return jax.jit(functools.partial(encoder.apply, **options))


def run(x, encoder=SMALL, train=False, weights=None, **arrays):
    weights = variables(encoder) if weights is None else weights
    return jax.device_get(compiled(encoder, train=train)(weights, x, **arrays))


def row_keys(rows, seed=2):
    return np.random.default_rng(seed).integers(0, 2**32, (rows, 2), np.uint32)


def kept(count=5):
    """(mask [4, 16], numbers of its patches in another order [4, count])."""
    rng = np.random.default_rng(3)
    numbers = np.stack([rng.permutation(PATCHES)[:count] for _ in range(4)]).astype(np.int32)
    mask = np.zeros((4, PATCHES), bool)
    np.put_along_axis(mask, numbers, True, axis=1)
    return mask, numbers


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_omitted_patches_have_no_influence(pool):
    encoder, (mask, _) = SMALL.clone(pool=pool), kept()
    x = images()
    squares = np.kron(mask.reshape(4, 4, 4), np.ones((1, 4, 4)))[..., None] > 0
    other = np.where(squares, x, 100 * images(seed=9))
    found, again = run(x, encoder, keep=mask), run(other, encoder, keep=mask)
    jax.tree.map(np.testing.assert_array_equal, found, again)
    whole = run(x, encoder)["features"]
    assert np.abs(found["features"] - whole).max() > 0.1
    everything = run(x, encoder, keep=np.ones_like(mask))["features"]
    np.testing.assert_allclose(everything, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_numbers_of_patches_select_what_a_mask_selects(pool):
    encoder, (mask, numbers) = SMALL.clone(pool=pool), kept()
    masked, selected = run(images(), encoder, keep=mask), run(images(), encoder, keep=numbers)
    bound = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums in another order
    np.testing.assert_allclose(selected["features"], masked["features"], **bound)
    expected = np.take_along_axis(masked["tokens"], numbers[:, :, None], axis=1)
    np.testing.assert_allclose(selected["tokens"], expected, **bound)
    assert np.all(masked["tokens"][~mask] == 0)
    for ours, stage in zip(selected["stages"], masked["stages"], strict=True):
        flat = stage.reshape(4, PATCHES, -1)
        expected = np.take_along_axis(flat, numbers[:, :, None], axis=1)
        np.testing.assert_allclose(ours, expected, **bound)


def test_a_quarter_of_the_patches_costs_about_a_quarter():
    encoder = SMALL.clone(hidden=96)
    x, numbers = jnp.zeros((2, 48, 48, 3)), jnp.zeros((2, 36), jnp.int32)
    weights = jax.eval_shape(encoder.init, jax.random.key(0), x)
    costs = [
        jax.jit(encoder.apply).lower(weights, x, **given).cost_analysis()["flops"]
        for given in ({}, {"keep": numbers})
    ]
    assert 0.2 < costs[1] / costs[0] < 0.3


def test_masks_follow_the_keys_not_the_position_in_the_batch():
    encoder = SMALL.clone(dropout=0.2, drop_path=0.5)
    keys, order = row_keys(4), np.array([2, 0, 3, 1])
    found = run(images(), encoder, train=True, keys=keys)["features"]
    moved = run(images()[order], encoder, train=True, keys=keys[order])["features"]
    np.testing.assert_allclose(moved, found[order], rtol=1e-5, atol=1e-5)
    assert np.abs(found - run(images(), encoder)["features"]).max() > 0.1
    assert np.abs(found - run(images(), encoder, train=True, keys=row_keys(4, 5))["features"]).max()
    with pytest.raises(ValueError, match="needs a key per row"):
        encoder.apply(variables(encoder), images(), train=True)


def test_drop_path_grows_from_zero_to_its_rate(monkeypatch):
    rates = []

    def record(self, x, keys, *, train):
        rates.append(self.rate)
        return x

    monkeypatch.setattr("cssl_jax.models.attention.DropPath.__call__", record)
    encoder = ViT(layers=3, hidden=24, heads=3, patch=4, drop_path=0.4)
    jax.eval_shape(encoder.init, jax.random.key(0), images())
    np.testing.assert_allclose(rates, [0, 0, 0.2, 0.2, 0.4, 0.4])


def test_remat_keeps_outputs_and_gradients():
    def gradient(encoder):
        def loss(weights):
            return encoder.apply(weights, images())["features"].sum()

        return jax.jit(jax.grad(loss))(variables())

    bound = {"rtol": 1e-5, "atol": 1e-5}
    plain, again = gradient(SMALL), gradient(SMALL.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **bound), plain, again)


def test_bfloat16_features_are_float32_and_close():
    found = run(images(), SMALL.clone(dtype=jnp.bfloat16), weights=variables())
    assert found["features"].dtype == found["tokens"].dtype == np.float32
    right = run(images())["features"]
    assert 0 < np.abs(found["features"] - right).max() < 0.05 * np.abs(right).max()


def test_layer_scale_starts_branches_at_its_value_and_live_branches_at_one():
    scaled = SMALL.clone(layers=1, layer_scale=1e-5)
    for encoder, value in ((scaled, 1e-5), (scaled.with_live_branches(), 1.0)):
        params = jax.jit(encoder.init)(jax.random.key(0), images())["params"]
        np.testing.assert_array_equal(params["block1"]["scale2"], np.full(24, value, np.float32))
    assert SMALL.with_live_branches() is SMALL


def test_initial_weights_have_the_deviations_of_timm():
    encoder = ViT(layers=1, patch=4)
    params = jax.jit(encoder.init)(jax.random.key(0), images())["params"]
    for leaf, expected in (
        (params["block1"]["qkv"]["kernel"], 0.02),
        (params["positions"], 0.02),
        (params["class_token"], 1e-6),
        (params["patch"]["kernel"], 1 / math.sqrt(3 * 48)),  # uniform within 1 / sqrt(48)
    ):
        assert float(jnp.std(leaf)) == pytest.approx(expected, rel=0.2)
    assert float(jnp.abs(params["patch"]["bias"]).max()) <= 1 / math.sqrt(48)


def test_depths_are_the_blocks():
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), images())["params"]
    depths = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
        depths.setdefault(path[0].key, SMALL.depth_of(path))
    expected = {"patch": 0, "class_token": 0, "positions": 0, "block1": 1, "block2": 2, "norm": 2}
    assert depths == expected


# ----------------------------------------------------------------------------------- what does not


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({}, images(size=18), r"18 x 18 pixels .* patches of 4; use --data.size 16"),
        ({}, np.zeros((2, 8), np.float32), r"a ViT takes images .* was given shape \(2, 8\)"),
        ({}, {"values": np.zeros((1, 2, 1))}, "a tree of arrays"),
        ({"heads": 5}, images(), "5 heads do not divide the 24 channels"),
        ({"pool": "max"}, images(), "pool 'max' is unknown; use 'token' or 'mean'"),
        ({"positions": "sincos"}, images(), "positions 'sincos' are unknown; use 'learned' or"),
        ({}, np.zeros((1, 8, 16, 3), np.float32), "not from 2 x 4 patches"),
    ],
)
def test_what_cannot_be_encoded_is_refused(options, x, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(SMALL.clone(**options).init, jax.random.key(0), x)


def test_the_encoders_are_those_of_images():
    assert {"vit_micro", *WIDTHS} <= set(encoders_for("image"))
