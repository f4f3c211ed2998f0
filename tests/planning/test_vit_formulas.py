"""Closed formulas of Vision Transformers: parameters, products and bytes are those traced."""

import jax
import jax.numpy as jnp
import pytest

from cssl_jax import recipes
from cssl_jax.config import ModelConfig
from cssl_jax.config.model import ENCODER_OPTIONS
from cssl_jax.models.registry import build_encoder, encoders_for
from cssl_jax.planning import planner
from cssl_jax.planning.formulas import RESNETS
from cssl_jax.planning.shapes import data_shapes
from cssl_jax.planning.vit_formulas import VITS, vit_layers
from helpers import tiny
from helpers.products import products
from tests.helpers.marks import slow

MODELS = {
    "vit_micro": {"patch": 4},
    "vit_tiny": {"patch": 8, "width": 0.3, "heads": 6},
    "vit_small": {"pool": "mean", "layer_scale": 1e-5},
    "vit_base": {"positions": "sincos_moco_v3", "freeze_patch_projection": True},
    "vit_large": {"positions": "sincos_mae", "pool": "mean", "patch": 8},
}


@pytest.mark.parametrize("name", ["vit_micro", "vit_small", *map(slow, ("vit_tiny", "vit_base"))])
def test_an_encoder_has_the_counted_parameters_and_products(name):
    model = ModelConfig(encoder=name, **MODELS[name])
    options = {option: getattr(model, option) for option in ENCODER_OPTIONS}
    encoder = build_encoder(name, width=model.width, **options)
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(encoder.init, jax.random.key(0), x)
    layers, features = vit_layers(model, 32, 3)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(layer.parameters for layer in layers) == sum(leaf.size for leaf in leaves)
    traced = jax.make_jaxpr(encoder.apply)(variables, x)
    assert 2 * sum(layer.flops for layer in layers) == products(traced.jaxpr)
    assert jax.eval_shape(encoder.apply, variables, x)["features"].shape == (2, features)


def test_every_encoder_of_images_is_counted():
    assert {*VITS, *RESNETS} == set(encoders_for("image"))
    assert set(MODELS) == set(VITS)


DINOV2 = {"method.name": "dino", "method.centring": "sinkhorn", "method.koleo_weight": 0.1}


@pytest.mark.parametrize(
    "values",
    [
        {},
        *map(slow, ({"train.micro_batch": 8}, {"model.remat": True})),
        {**DINOV2, "method.prototypes": 20},
        slow({"method.name": "swav", "method.prototypes": 20}),
    ],
)
def test_bytes_between_devices_by_hand_are_those_of_the_step_as_written(values):
    small = {"model.encoder": "vit_micro", "model.patch": 4, "model.width": 1 / 8}
    config = recipes.override(tiny.config(), {**small, **values})
    config = tiny.replace(config, "model", projector_hidden=8, projector_dim=6)
    found = planner.shapes_of(config, 4, data_shapes(config, None, 4))
    cost = found.cost
    by_hand = {
        "all-gather": cost.all_gather,
        "all-reduce": cost.all_reduce + cost.norm_all_reduce,
        "reduce-scatter": cost.reduce_scatter,
    }
    assert dict(found.collectives) == {name: size for name, size in by_hand.items() if size}
