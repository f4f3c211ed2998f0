"""What every encoder of sequences promises: masks, keys, devices, precision, gradients, sizes."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.modalities.registry import MODALITIES
from cssl_jax.models.attention import attention
from cssl_jax.models.normalization import BatchNorm
from cssl_jax.models.registry import build_encoder, encoder_entry, encoders_for
from cssl_jax.models.sequence.masks import masked_max, masked_mean, split_input, strided
from cssl_jax.runtime.spmd import AXIS, make_mesh
from helpers import sequences, waves
from helpers.sequences import SMALL, STEPS
from tests.helpers.marks import fast, slow

ENCODERS = ["resnet1d", "dilated", "gru", "lstm", "bigru", "bilstm", "conv_gru", "transformer"]
KEYED = [name for name, encoder in SMALL.items() if hasattr(encoder, "dropout")]


def padding_difference(name, train):
    """Largest relative change of outputs and statistics if sequences are padded further."""
    encoder = SMALL[name]
    variables, keys = sequences.variables(encoder), sequences.keys()

    @jax.jit
    def both(variables, *given):
        return [encoder.apply(variables, x, train, keys, mutable=["batch_stats"]) for x in given]

    padded = sequences.inputs(steps=STEPS + 7, padding=9.0)
    (one, stats), (other, other_stats) = both(variables, sequences.inputs(), padded)
    for output in {"tokens", "latents", "contexts"} & set(one):
        other = {**other, output: other[output][:, : one[output].shape[1]]}
    del one["stages"], other["stages"]
    pairs = zip(jax.tree.leaves((one, stats)), jax.tree.leaves((other, other_stats)), strict=True)
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in jax.device_get(list(pairs)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", fast(SMALL, ["resnet1d", "dilated", "bilstm", "transformer"]))
def test_padding_has_no_influence(name, train):
    """Also on the masks of dropout and on BatchNorm; padding is NaN first, then 9.

    The tolerance is float32 rounding, 2^-24 = 6e-8, of sums whose order depends on the shape.
    """
    assert padding_difference(name, train) < 1e-6


@pytest.mark.parametrize("name", fast(SMALL, ["resnet1d", "dilated", "bigru", "transformer"]))
def test_a_mask_that_is_ignored_is_caught(name, monkeypatch):
    def unmasked(x):
        values, mask = split_input(x)
        return values, jnp.ones_like(mask)

    module = importlib.import_module(type(SMALL[name]).__module__)
    monkeypatch.setattr(module, "split_input", unmasked)
    assert padding_difference(name, train=False) > 1e-3


class UnmaskedNorm(BatchNorm):
    """BatchNorm whose statistics include padding."""

    def __call__(self, x, *, train, mask=None):
        return super().__call__(x, train=train)


@pytest.mark.parametrize(
    ("name", "attribute", "replacement"),
    [
        ("resnet1d", "BatchNorm", UnmaskedNorm),
        ("resnet1d", "zero_outside", lambda x, mask: x),
        ("dilated", "zero_outside", lambda x, mask: x),
        ("transformer", "attention", lambda q, k, v, mask: attention(q, k, v, mask | True)),
    ],
)
def test_a_layer_without_its_mask_is_caught(name, attribute, replacement, monkeypatch):
    owners = (type(SMALL[name]).__module__, "cssl_jax.models.attention")
    modules = map(importlib.import_module, owners)
    module = next(module for module in modules if hasattr(module, attribute))
    monkeypatch.setattr(module, attribute, replacement)
    assert padding_difference(name, train=True) > 1e-3


@pytest.mark.parametrize("name", fast(SMALL, ["resnet1d", "transformer"]))
def test_gradients_are_finite_for_one_step_and_for_none(name):
    encoder = SMALL[name]
    x = sequences.inputs((1, 0, 13, 1, 2, 1))

    @jax.jit
    def gradients(variables, values):
        def loss(variables, values):
            outputs, _ = encoder.apply(
                variables,
                {**x, "values": values},
                True,
                sequences.keys(6),
                mutable=["batch_stats"],
            )
            return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(outputs))

        return jax.value_and_grad(loss, argnums=(0, 1))(variables, values)

    value, (by_variables, by_values) = gradients(sequences.variables(encoder), x["values"])
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_variables))
    np.testing.assert_array_equal(np.asarray(by_values)[np.isnan(x["values"])], 0)


@pytest.mark.parametrize("name", fast(SMALL, ["resnet1d", "transformer"]))
def test_four_devices_compute_what_one_computes(name):
    encoder = SMALL[name]
    sharded = encoder.clone(axis_name=AXIS)

    def forward(encoder):
        def run(variables, x, keys):
            outputs, updates = encoder.apply(variables, x, True, keys, mutable=["batch_stats"])
            return outputs["features"], updates

        return run

    mapped = jax.shard_map(
        forward(sharded),
        mesh=make_mesh(jax.devices()[:4]),
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=(P(AXIS), P()),
        check_vma=False,
    )
    with jax.enable_x64(True):
        given = (
            sequences.variables(encoder, np.float64),
            sequences.inputs(dtype=np.float64),
            sequences.keys(),
        )
        one, four = (jax.device_get(jax.jit(f)(*given)) for f in (forward(encoder), mapped))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)  # docs/architecture.md, rule 1


@pytest.mark.parametrize(
    "name",
    [
        *("dilated", "transformer"),
        *(slow(name) for name in ("gru", "bilstm")),
    ],
)
def test_random_masks_follow_the_keys_not_the_position_in_the_batch(name):
    encoder = SMALL[name]
    variables, x, keys = sequences.variables(encoder), sequences.inputs(), sequences.keys()

    @jax.jit
    def features(variables, x, keys):
        return encoder.apply(variables, x, True, keys)["features"]

    order = np.array([3, 0, 7, 5, 1, 2, 6, 4])
    plain = features(variables, x, keys)
    moved = features(variables, jax.tree.map(lambda leaf: leaf[order], x), keys[order])
    # Rows of a product may be summed in another order.
    np.testing.assert_allclose(moved, plain[order], atol=1e-6)
    other = features(variables, x, sequences.keys(seed=1))
    assert np.abs(other - plain).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("name", KEYED)
def test_a_draw_without_keys_is_refused(name):
    variables, x = sequences.variables(SMALL[name]), sequences.inputs()
    with pytest.raises(ValueError, match="Dropout needs a key per row in training"):
        jax.eval_shape(lambda: SMALL[name].apply(variables, x, True))


@pytest.mark.parametrize("name", fast(SMALL, ["transformer"]))
def test_bfloat16_features_are_float32_and_close(name):
    encoder = SMALL[name]
    variables, x, keys = sequences.variables(encoder), sequences.inputs(), sequences.keys()

    @jax.jit
    def both(variables, x, keys):
        return [
            encoder.clone(dtype=dtype).apply(variables, x, True, keys, mutable=["batch_stats"])
            for dtype in (None, jnp.bfloat16)
        ]

    (full, _), (half, stats) = both(variables, x, keys)
    assert half["features"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} <= {jnp.dtype(jnp.float32)}
    scale = np.abs(full["features"]).max()
    # bfloat16 rounds by 2^-9 (0.2 %) at each of a dozen layers.
    assert 1e-5 < np.abs(full["features"] - half["features"]).max() / scale < 0.05


@pytest.mark.parametrize("name", fast(SMALL, ["gru"]))
def test_remat_preserves_outputs_and_stores_less(name):
    encoder = SMALL[name]
    variables, x, keys = sequences.variables(encoder), sequences.inputs(), sequences.keys()
    stored, results = [], []
    for remat in (False, True):

        def loss(variables, remat=remat):
            given = variables, x, True, keys
            outputs, _ = encoder.clone(remat=remat).apply(*given, mutable=["batch_stats"])
            return jnp.square(outputs["features"]).sum()

        results.append(jax.jit(jax.value_and_grad(loss))(variables))
        backward = jax.eval_shape(lambda v, f=loss: jax.vjp(f, v)[1], variables)
        stored.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        # The same operations are fused differently.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert stored[1] < stored[0]


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_and_widths_are_the_stated_ones(name):
    """Counts by hand: kernels and biases layer by layer."""
    c, h, d, k = 5, 128, 128, 64
    residual = sum(
        blocks * 3 * wide * wide + 3 * wide * narrow + wide * narrow * (wide > narrow)
        for wide, narrow, blocks in ((64, 64, 3), (128, 64, 3), (256, 128, 3), (512, 256, 3))
    )
    norms = 2 * (64 + 4 * 64 + 5 * (128 + 256 + 512))
    layer = {
        (gates, inputs): gates * h * (inputs + h + 1) + h
        for gates in (3, 4)
        for inputs in (c, h, 2 * h)
    }
    convolutions = 20 * (3 * k * k + k) + 3 * k * 320 + 3 * 320 * 320 + k * 320 + 3 * 320
    attention = 3 * d * d + 3 * d + d * d + d + 2 * (2 * d) + 8 * d * d + 4 * d + d
    expected = {
        "resnet1d": (7 * c * 64 + residual + norms, (3_843_456, 448), 512),
        "dilated": (k * c + k + convolutions, (637_184, 64), 320),
        "gru": (layer[3, c] + layer[3, h], (148_480, 384), 128),
        "lstm": (layer[4, c] + layer[4, h], (197_888, 512), 128),
        "bigru": (2 * (layer[3, c] + layer[3, 2 * h]), (395_264, 768), 256),
        "bilstm": (2 * (layer[4, c] + layer[4, 2 * h]), (526_848, 1024), 256),
        "conv_gru": (
            3 * c * h + h + 2 * h + 3 * h * h + h + 2 * h + layer[3, h],
            (148_736, 384),
            128,
        ),
        "transformer": (c * d + d + 4 * attention + 2 * d, (793_472, 128), 128),
    }
    assert set(expected) == set(ENCODERS)
    by_hand, (constant, slope), width = expected[name]
    stated = constant + slope * c
    encoder, x = build_encoder(name), {"values": jnp.zeros((2, 40, c)), "length": jnp.full(2, 40)}
    outputs, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)
    assert by_hand == stated
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == stated
    assert outputs["features"].shape == (2, width)
    assert len(outputs["stages"]) == encoder.num_stages
    if "tokens" in outputs:
        assert outputs["tokens"].shape == (2, 40, width)
    document = type(encoder).__doc__
    assert f"{constant:,}" in document
    assert f"{slope:,} C" in document


@pytest.mark.parametrize(
    ("name", "blocks"), [("spectrogram_resnet10", 1), ("spectrogram_resnet18", 2)]
)
def test_parameters_of_a_spectrogram_resnet_are_the_stated_ones(name, blocks):
    """Convolutions of 3 x 3 by hand, each with a scale and a bias per channel."""
    total = 49 * 64 + 2 * 64
    for stage, wide in enumerate((64, 128, 256, 512)):
        narrow = wide // 2 if stage else wide
        total += 9 * wide * narrow + 2 * wide + (2 * blocks - 1) * (9 * wide * wide + 2 * wide)
        total += (narrow * wide + 2 * wide) * (stage > 0)
    x = {"values": jnp.zeros((2, 40, 20)), "length": jnp.full(2, 40)}
    encoder = build_encoder(name)
    outputs, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == total
    assert f"{total:,}" in type(encoder).__doc__
    assert outputs["features"].shape == (2, 1024)
    assert [leaf.shape[1:3] for leaf in outputs["stages"]] == [(10, 5), (5, 3), (3, 2), (2, 1)]


def test_the_encoder_of_waveforms_has_the_strides_of_the_paper():
    x = {"values": jnp.zeros((2, 20_480, 1)), "length": jnp.array([20_480, 161])}
    encoder = build_encoder("wave_gru", width=1 / 16)
    outputs = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)[0]
    assert outputs["contexts"].shape == (2, 128, 8)  # of the paper's windows of 1.28 s at 16 kHz
    assert math.prod(encoder.strides) == 160


@pytest.mark.parametrize("name", ENCODERS)
def test_every_stage_has_parameters_and_the_names_are_registered(name):
    encoder = build_encoder(name, width=1 / 16)
    paths = jax.tree_util.tree_leaves_with_path(sequences.variables(encoder)["params"])
    depths = {encoder.depth_of(path) for path, _ in paths}
    assert set(range(1, encoder.num_stages + 1)) <= depths <= set(range(encoder.num_stages + 1))
    assert encoders_for("series") == ENCODERS
    own = {"spectrogram_resnet10", "spectrogram_resnet18", "wave_gru"}
    assert set(encoders_for("audio")) == {*ENCODERS, *own}


def test_options_of_a_run_reach_the_fields_that_exist():
    options = {"width": 0.5, "stem": "cifar", "remat": True, "axis_name": AXIS, "norm_groups": 2}
    built = build_encoder("resnet1d", **options, zero_init_residual=False, dtype=jnp.bfloat16)
    assert (built.stem, built.zero_init_residual, built.norm_groups) == ("cifar", False, 2)
    gru = build_encoder("gru", **options, zero_init_residual=False, dtype=None)
    assert (gru.width, gru.remat, gru.cell, gru.bidirectional) == (0.5, True, "gru", False)


# ------------------------------------------------------------------------------------------- masks


def test_a_length_is_divided_by_the_stride_and_rounded_up():
    length = np.arange(14)
    mask = np.arange(13) < length[:, None]
    for stride in (1, 2, 3):
        np.testing.assert_array_equal(strided(mask, stride).sum(axis=1), -(-length // stride))
    assert strided(mask, 2).shape == (14, 7)


def test_reductions_count_valid_steps_only_and_give_0_without_one():
    x = np.array([[1, -4, np.nan], [-2, np.inf, 7], [np.nan] * 3], np.float32)[..., None]
    mask = np.array([[True, True, False], [True, False, False], [False] * 3])
    assert masked_mean(x, mask).ravel().tolist() == [-1.5, -2.0, 0.0]
    assert masked_max(x, mask).ravel().tolist() == [1.0, -2.0, 0.0]


# ---------------------------------------------------------------------------- inputs that are wrong


@pytest.mark.parametrize("given", [np.zeros((2, 8, 8, 3)), {"values": np.zeros((2, 8, 3))}])
def test_an_encoder_of_sequences_refuses_other_inputs(given):
    with pytest.raises(UserError, match=r"takes sequences.*was given .*--model.encoder resnet18"):
        jax.eval_shape(build_encoder("gru").init, jax.random.key(0), given)


@pytest.mark.parametrize("given", [sequences.inputs(), np.zeros((2, 8, 3))])
def test_a_resnet_refuses_sequences(given):
    with pytest.raises(UserError, match=r"takes images.*was given .*--model.encoder resnet1d"):
        build_encoder("resnet18").init(jax.random.key(0), given)


def test_a_config_with_an_encoder_of_another_modality_is_refused(monkeypatch):
    monkeypatch.setitem(MODALITIES, "series", waves.WAVES)
    images = recipes.load("debug")
    series = recipes.with_modality(images, "series")
    with pytest.raises(UserError, match=r"'gru' takes .* series.*--model.encoder resnet10 .or"):
        recipes.override(images, {"model.encoder": "gru"})
    with pytest.raises(UserError, match=r"--model.encoder resnet1d \(or dilated.*modality image"):
        recipes.validate(series)
    recipes.override(series, {"model.encoder": "gru"})
    assert encoder_entry("resnet18").modalities == ("image",)
