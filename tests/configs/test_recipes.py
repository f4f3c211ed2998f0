"""The published recipes against a table of their sources' figures, written down apart from them."""

import dataclasses
import importlib
import math
import operator

import jax
import numpy as np
import pytest

from cssl_jax import parallel, recipes
from cssl_jax.data.sampler import Sampler
from cssl_jax.evaluate.features import InputSpec
from cssl_jax.train import setup

IMAGENET, CIFAR = 1_281_167, 50_000  # training images
# SimCLR paper, sections 2.1 to 2.3, appendices A, B.1 and B.9.
PAPER = {
    "method.temperature": 0.1,
    "augment.crop_area": (0.08, 1.0),
    "augment.crop_ratio": (3 / 4, 4 / 3),
    "augment.interpolation": "bicubic",
    "augment.horizontal_flip": (0.5,),
    "augment.jitter": (0.8,),
    "augment.jitter_strength": 1.0,
    "augment.brightness": 0.8,
    "augment.contrast": 0.8,
    "augment.saturation": 0.8,
    "augment.hue": 0.2,
    "augment.grayscale": (0.2,),
    "augment.blur": (0.5,),
    "augment.blur_sigma": (0.1, 2.0),
    "augment.blur_kernel": 0.1,
    "data.normalize": "unit",
    "model.encoder": "resnet50",
    "model.projector_layers": 2,
    "model.projector_hidden": 2048,
    "model.projector_dim": 128,
    "model.projector_norm": True,
    "model.norm_group": 0,
    "optimizer.name": "lars",
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 10.0,
    "optimizer.weight_decay": 1e-6,
    "optimizer.momentum": 0.9,
    "optimizer.trust_coefficient": 0.001,
    "optimizer.trust_clip": False,
    "optimizer.exclude_norm_and_bias": True,
}
LARGE = {"data.size": 224, "model.stem": "imagenet", "train.epochs": 100}
DKOBAK = {  # github.com/dkobak/simclr-cifar10, README
    "method.temperature": 0.5,
    "augment.crop_area": (0.2, 1.0),
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.4,
    "augment.hue": 0.1,
    "augment.grayscale": (0.1,),
    "augment.blur": (0.0,),
    "model.encoder": "resnet18",
    "model.stem": "cifar",
    "model.projector_layers": 2,
    "model.projector_hidden": 1024,
    "model.projector_dim": 128,
    "model.projector_norm": False,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 5e-4,
    "optimizer.exclude_norm_and_bias": False,
    "optimizer.warmup_epochs": 0.0,
    "train.batch_size": 512,
    "evaluate.knn_k": 10,
}
FACTS = {
    "imagenet_resnet50": {**PAPER, **LARGE, "train.batch_size": 4096},
    "imagenet_resnet50_small": {**PAPER, **LARGE, "train.batch_size": 256},
    "simclr_tf2_readme": {  # tf2/README.md and flags
        **PAPER,
        **LARGE,
        "train.batch_size": 4096,
        "model.projector_layers": 3,
        "optimizer.weight_decay": 1e-4,
    },
    "cifar10_resnet50": {
        **PAPER,
        "model.stem": "cifar",
        "augment.jitter_strength": 0.5,
        "augment.blur": (0.0,),
        "method.temperature": 0.5,
        "train.batch_size": 1024,
        "train.epochs": 1000,
        "data.size": 32,
    },
    "cifar10_resnet18": {**DKOBAK, "train.epochs": 100},
    "dkobak_cifar10": {**DKOBAK, "train.epochs": 1000},
    "solo_cifar10": {  # scripts/pretrain/cifar/simclr.yaml
        "method.temperature": 0.2,
        "augment.jitter_strength": 1.0,
        "augment.brightness": 0.8,
        "augment.contrast": 0.8,
        "augment.saturation": 0.8,
        "augment.hue": 0.2,
        "augment.grayscale": (0.2,),
        "augment.blur": (0.5,),
        "model.encoder": "resnet18",
        "model.stem": "cifar",
        "model.projector_layers": 2,
        "model.projector_hidden": 2048,
        "model.projector_dim": 256,
        "model.projector_norm": False,
        "optimizer.name": "lars",
        "optimizer.trust_coefficient": 0.02,
        "optimizer.trust_clip": True,
        "optimizer.exclude_norm_and_bias": True,
        "optimizer.weight_decay": 1e-4,
        "optimizer.warmup_epochs": 10.0,
        "train.batch_size": 256,
        "train.epochs": 1000,
    },
    "lightly_cifar10": {  # CIFAR-10 benchmark script
        "method.temperature": 0.5,
        "augment.jitter_strength": 0.5,
        "augment.blur": (0.0,),
        "model.encoder": "resnet18",
        "model.stem": "cifar",
        "model.projector_layers": 2,
        "model.projector_hidden": 512,
        "model.projector_dim": 128,
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 5e-4,
        "optimizer.exclude_norm_and_bias": False,
        "optimizer.warmup_epochs": 0.0,
        "train.batch_size": 512,
        "train.epochs": 200,
        "evaluate.knn_k": 200,
        "evaluate.knn_temperature": 0.1,
    },
    "folder": {"optimizer.scaling": "sqrt", "optimizer.learning_rate": 0.075},
}
# (training images, peak learning rate, steps of an epoch): rates as the sources write them.
DERIVED = {
    "imagenet_resnet50": (IMAGENET, 4.8, 312),
    "imagenet_resnet50_small": (IMAGENET, 0.075 * 16, 5004),
    "simclr_tf2_readme": (IMAGENET, 0.075 * math.sqrt(4096), 312),
    "cifar10_resnet50": (CIFAR, 1.0 * 1024 / 256, 48),
    "cifar10_resnet18": (CIFAR, 0.06 * 512 / 256, 97),
    "dkobak_cifar10": (CIFAR, 0.03 * 512 / 256, 97),
    "solo_cifar10": (CIFAR, 0.4, 195),
    "lightly_cifar10": (CIFAR, 0.06 * 512 / 128, 97),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_has_its_sources_figures(name):
    config = recipes.load(name)
    wrong = {
        field: (operator.attrgetter(field)(config), value)
        for field, value in FACTS[name].items()
        if operator.attrgetter(field)(config) != value
    }
    assert not wrong


@pytest.mark.parametrize("name", DERIVED)
def test_the_learning_rate_peaks_where_the_source_says(name):
    images, peak, steps = DERIVED[name]
    config = recipes.load(name)
    sampler = Sampler(images, config.train.batch_size, 0)
    _, schedule, total = setup.make_optimizer(config, sampler)
    assert sampler.steps_per_epoch == steps
    assert total == steps * config.train.epochs
    warmup = round(config.optimizer.warmup_epochs * steps)
    np.testing.assert_allclose(float(schedule(warmup)), peak, rtol=1e-5)
    np.testing.assert_allclose(float(schedule(total)), 0.0, atol=1e-6)
    assert float(schedule(0)) == pytest.approx(0.0 if warmup else peak)


def test_square_root_scaling_is_one_option_away_and_equal_at_4096():
    config = recipes.load("imagenet_resnet50")
    root = dataclasses.replace(config.optimizer, scaling="sqrt", learning_rate=0.075)
    _, schedule, _ = setup.make_optimizer(
        dataclasses.replace(config, optimizer=root), Sampler(IMAGENET, 4096, 0)
    )
    assert float(schedule(3120)) == pytest.approx(4.8)


@pytest.mark.parametrize("name", FACTS)
def test_the_model_has_the_heads_widths(name):
    config = recipes.load(name)
    method = setup.make_method(config, parallel.make_mesh(jax.devices()[:1]))
    size = config.data.size or 32
    spec = InputSpec(size=size, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    optimizer, _, _ = setup.make_optimizer(config, Sampler(IMAGENET, config.train.batch_size, 0))
    state = jax.eval_shape(setup.initializer(method, optimizer, spec), jax.random.key(0))
    head = state.params["projector"]
    layers = config.model.projector_layers
    assert sorted(n for n in head if n.startswith("dense")) == [
        f"dense{i + 1}" for i in range(layers)
    ]
    assert head[f"dense{layers}"]["kernel"].shape[1] == config.model.projector_dim
    features = 2048 if config.model.encoder == "resnet50" else 512
    assert head["dense1"]["kernel"].shape == (features, config.model.projector_hidden or features)
    assert ("bn1" in head) == config.model.projector_norm
    assert ("bias" in head["dense1"]) != config.model.projector_norm


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_every_header_says_where_it_is_from_what_to_expect_and_how_to_run_it(name):
    header = importlib.import_module(f"cssl_jax.configs.{name}").__doc__
    for part in ("Source:", "Expected", "Command:"):
        assert part in header
    assert len(header.splitlines()[0]) <= 100
    if name in DERIVED:
        assert "Different here:" in header
        assert "ime" in header  # hardware and time, or that it is not told


def test_the_diff_shows_what_two_recipes_set_differently():
    lines = recipes.diff("imagenet_resnet50", "simclr_tf2_readme").splitlines()
    assert lines[0].split() == ["field", "imagenet_resnet50", "simclr_tf2_readme"]
    assert [line.split() for line in lines[1:]] == [
        ["model.projector_layers", "2", "3"],
        ["optimizer.learning_rate", "0.3", "0.075"],
        ["optimizer.scaling", '"linear"', '"sqrt"'],
        ["optimizer.weight_decay", "1e-06", "0.0001"],
    ]
    assert recipes.diff("digits", "digits") == "digits and digits compute the same"
