"""The closed formulas agree with the published architectures and with the traced program."""

import dataclasses

import jax
import pytest

from cssl_jax import recipes
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import ModelConfig
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.models.registry import encoder_entry
from cssl_jax.models.resnet import Bottleneck
from cssl_jax.planning import formulas, planner
from cssl_jax.planning.formulas import convolutions
from cssl_jax.planning.shapes import DataShapes, data_shapes
from cssl_jax.runtime import spmd
from helpers import tiny
from tests.helpers.marks import fast, slow

# From torchvision's documentation of its weights: (10^9 multiply-additions at 224 px, parameters,
# features). Both counts include a classifier of 1000 classes, which the tests subtract.
TORCHVISION = {
    "resnet18": (1.814, 11_689_512, 512),
    "resnet34": (3.664, 21_797_672, 512),
    "resnet50": (4.089, 25_557_032, 2048),
    "resnet101": (7.801, 44_549_160, 2048),
    "resnet152": (11.514, 60_192_808, 2048),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_resnet_has_the_published_operations_and_parameters(name):
    billions, parameters, features = TORCHVISION[name]
    layers = list(convolutions(ModelConfig(encoder=name), 224, 3))
    operations = sum(layer.flops for layer in layers) / 2 + 1000 * features
    assert operations / 1e9 == pytest.approx(billions, abs=6e-4)  # three digits are published
    norms = sum(2 * layer.outputs for layer in layers)
    convolved = sum(layer.parameters for layer in layers)
    assert convolved + norms == parameters - 1000 * (features + 1)


@pytest.mark.parametrize("name", formulas.RESNETS)
def test_every_encoder_is_counted_with_the_blocks_it_has(name):
    stages, bottleneck = formulas.RESNETS[name]
    built = encoder_entry(name).build
    assert built.args == (stages, built.args[1])
    assert bottleneck == (built.args[1] is Bottleneck)


# Encoders of series are counted in test_sequence_formulas.py.
IMAGES = [name for name in recipes.recipe_names() if recipes.load(name).data.modality == "image"]


@pytest.mark.parametrize("name", fast(IMAGES, {"digits", "imagenet_resnet50"}))
def test_a_recipe_has_as_many_parameters_as_counted(name):
    config = recipes.load(name)
    spec = ImageSpec(config.data.size or 32, 3, (0.5,) * 3, (0.25,) * 3)
    method = builders.make_method(config, spmd.make_mesh(jax.devices()[:1]))
    batch = {"views": {"main": jax.ShapeDtypeStruct((2, 2, spec.size, spec.size, 3), "float32")}}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    given = DataShapes(spec, "tfdata", None, "")
    cost = planner.cost_of(config, 1, given)
    assert cost.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "options",
    [
        slow({"encoder": "resnet50", "variant": "simclr_sk"}),
        {"encoder": "resnet14", "variant": "simclr_sk", "stem": "cifar", "width": 0.25},
        slow({"encoder": "resnet18", "variant": "simclr"}),
    ],
)
def test_a_variant_has_as_many_parameters_as_counted(options):
    config = recipes.load("debug").replace({f"model.{name}": v for name, v in options.items()})
    method = builders.make_method(config, spmd.make_mesh(jax.devices()[:1]))
    batch = {"views": {"main": jax.ShapeDtypeStruct((2, 2, 32, 32, 3), "float32")}}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    heads = formulas.heads_of(method, config.model)
    shape = formulas.StepShape(batch=2, devices=1, heads=heads)
    cost = formulas.cost(config.model, shape, size=32, channels=3)
    assert cost.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_an_encoder_that_is_not_counted_is_named():
    with pytest.raises(UserError, match="'tiny' is not known; use one of resnet10"):
        list(convolutions(ModelConfig(encoder="tiny"), 8, 1))


NO_AUGMENTATION = ImagePolicy(  # sends nothing; a step without it is traced in half the time
    **dict.fromkeys(("crop", "horizontal_flip", "jitter", "grayscale", "blur"), (0.0,))
)
STEPS = {
    "plain": {},
    "in tiles": {"method": {"tile_size": 8}},
    "remat": {"model": {"remat": True}},
    "GradCache": {"train": {"micro_batch": 16}},
    "GradCache and remat": {"train": {"micro_batch": 16}, "model": {"remat": True}},
    "groups of two devices": {"model": {"norm_group": 16}},
    "groups within a device": {"model": {"norm_group": 4}},
    "views apart": {"model": {"norm_views": "apart", "norm_group": 16}},
    "views apart, GradCache and remat": {
        "train": {"micro_batch": 16},
        "model": {"norm_views": "apart", "remat": True},
    },
    "selective kernels and remat": {
        "model": {"encoder": "resnet14", "variant": "simclr_sk", "stem": "imagenet", "remat": True}
    },
    "a head without norm": {"model": {"projector_norm": False, "projector_layers": 3}},
    "one device": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", fast(STEPS, {"GradCache and remat"}))
def test_bytes_between_devices_by_hand_are_those_of_the_step_as_written(name):
    config = dataclasses.replace(recipes.load("debug"), augment=NO_AUGMENTATION)
    for section, values in STEPS[name].items():
        config = tiny.replace(config, section, **values)
    shapes = planner.shapes_of(
        config, 1 if name == "one device" else 8, data_shapes(config, None, 8)
    )
    cost = shapes.cost
    assert dict(shapes.collectives) == {
        kind: size
        for kind, size in {
            "all-gather": cost.all_gather,
            "all-reduce": cost.all_reduce + cost.norm_all_reduce,
            "reduce-scatter": cost.reduce_scatter,
        }.items()
        if size
    }


def test_rings_send_what_they_are_known_to_send():
    # 4 devices: each sends three quarters of the bytes, and twice that for a reduction.
    cost = dataclasses.replace(
        planner.cost_of(recipes.load("debug"), 4, data_shapes(recipes.load("debug"), None, 4)),
        all_gather=400,
        reduce_scatter=80,
        all_reduce=1000,
        norm_all_reduce=200,
    )
    assert cost.sent(4) == (400 + 80) * 0.75 + 2 * (1000 + 200) * 0.75
    assert cost.sent(1) == 0
