"""Closed formulas of encoders of sequences: parameters, products and bytes are those traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.config import ModelConfig
from cssl_jax.modalities.series import SeriesSpec
from cssl_jax.models import convolution
from cssl_jax.models.registry import build_encoder, encoders_for
from cssl_jax.planning import planner, shapes
from cssl_jax.planning.sequence_formulas import SEQUENCE_ENCODERS, sequence_layers
from helpers import tiny
from helpers.products import products
from tests.helpers.marks import fast, slow

STEPS, CHANNELS = 21, 3
SLOW = ("gru", "lstm", "bilstm", "spectrogram_resnet18")
ENCODERS = sorted({*encoders_for("series"), *encoders_for("audio")})


# Only resnets have a stem.
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((slow if name in SLOW else pytest.param)(name, "imagenet") for name in ENCODERS),
        ("resnet1d", "cifar"),
        ("spectrogram_resnet10", "cifar"),
    ],
)
def test_an_encoder_has_the_counted_parameters_and_products(name, stem):
    model = ModelConfig(encoder=name, width=0.25, stem=stem)
    encoder = build_encoder(name, width=0.25, stem=stem)
    x = {"values": jnp.zeros((2, STEPS, CHANNELS)), "length": jnp.full(2, STEPS)}
    variables = jax.eval_shape(encoder.init, jax.random.key(0), x)
    layers, features = sequence_layers(model, STEPS, CHANNELS)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(layer.parameters for layer in layers) == sum(leaf.size for leaf in leaves)
    with convolution.xla_only():
        traced = jax.make_jaxpr(encoder.apply)(variables, x)
    assert 2 * sum(layer.flops for layer in layers) == products(traced.jaxpr)
    assert jax.eval_shape(encoder.apply, variables, x)["features"].shape == (2, features)


def test_every_encoder_is_counted():
    assert set(SEQUENCE_ENCODERS) == {*ENCODERS, *encoders_for("text")}


def planned(encoder, method="simclr", steps=12, **values):
    config = recipes.with_modality(tiny.config(), "series")
    config = recipes.with_method(config, method)
    config = tiny.replace(config, "model", encoder=encoder, width=1 / 8)
    config = config.replace({"train.batch_size": 16, "data.source": "none.npz", **values})
    spec = SeriesSpec(
        kind="series", size=steps, mean=(0.0,) * 2, std=(1.0,) * 2, normalize="dataset"
    )
    examples = {
        "values": jax.ShapeDtypeStruct((64, steps, 2), jnp.float32),
        "length": jax.ShapeDtypeStruct((64,), jnp.int32),
    }
    return config, shapes.DataShapes(spec, "resident", examples, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "values"),
    [
        ("resnet1d", {}),
        ("resnet1d", {"model.norm_group": 4, "model.remat": True}),
        ("resnet1d", {"model.norm_views": "apart", "train.micro_batch": 8}),
        ("dilated", {"train.micro_batch": 8, "model.remat": True}),
        ("gru", {}),
        ("dilated", {"method": "ts2vec"}),
        ("conv_gru", {"method": "cpc", "train.micro_batch": 8}),
    ],
)
def test_bytes_between_devices_by_hand_are_those_of_the_step_as_written(encoder, values):
    config, given = planned(encoder, **values)
    found = planner.shapes_of(config, 4, given)
    cost = found.cost
    assert dict(found.collectives) == {
        "all-gather": cost.all_gather,
        "all-reduce": cost.all_reduce + cost.norm_all_reduce,
        "reduce-scatter": cost.reduce_scatter,
    }


@pytest.mark.slow
def test_plan_prints_the_cost_of_a_recipe_of_series(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", values=rng.normal(size=(64, 12, 2)))
    config, _ = planned("gru", **{"data.source": str(tmp_path / "x.npz")})
    found = cssl_jax.plan(config, devices=2, memory_gb=1, compile=False)
    assert found.largest["plain"] > 0
    text = str(cssl_jax.plan_scaling(config, [1, 2, 4]))
    assert text.count("\n") == 4


@pytest.mark.parametrize("name", fast(encoders_for("text"), ["bert_tiny"]))
@pytest.mark.parametrize("width", [slow(1.0), 0.3])
def test_an_encoder_of_text_has_the_counted_parameters_and_products(name, width):
    encoder = build_encoder(name, width=width, vocabulary=300)
    x = {"tokens": jnp.zeros((2, STEPS), jnp.int32), "length": jnp.full(2, STEPS)}
    variables = jax.eval_shape(encoder.init, jax.random.key(0), x)
    layers, features = sequence_layers(ModelConfig(encoder=name, width=width), STEPS, 300)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(layer.parameters for layer in layers) == sum(leaf.size for leaf in leaves)
    traced = jax.make_jaxpr(encoder.apply)(variables, x)
    assert 2 * sum(layer.flops for layer in layers) == products(traced.jaxpr)
    assert jax.eval_shape(encoder.apply, variables, x)["features"].shape == (2, features)
