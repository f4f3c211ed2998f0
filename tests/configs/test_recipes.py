"""The published recipes against a table of their sources' figures, written down apart from them.

The sources: the SimCLR paper (arXiv 2002.05709), and four repositories at the commits that the
recipes' headers name.
"""

import dataclasses
import importlib
import json
import math
import operator
import pathlib
import re

import jax
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders, train_state
from cssl_jax.runtime import spmd
from tests.helpers.marks import fast

IMAGENET, CIFAR = 1_281_167, 50_000  # training images
PAPER = {
    "method.temperature": 0.1,  # section 5.1, table 5
    "augment.crop": (1.0,),  # appendix A: from here on, to the blur
    "augment.crop_area": (0.08, 1.0),
    "augment.crop_ratio": (3 / 4, 4 / 3),
    "augment.interpolation": "bicubic",  # the code's data_util.py, as is the next
    "augment.antialias": False,
    "augment.dct_scaling": False,
    "augment.horizontal_flip": (0.5,),
    "augment.jitter": (0.8,),
    "augment.jitter_strength": 1.0,
    "augment.brightness": 0.8,
    "augment.contrast": 0.8,
    "augment.saturation": 0.8,
    "augment.hue": 0.2,
    "augment.brightness_mode": "additive",
    "augment.grayscale": (0.2,),
    "augment.blur": (0.5,),
    "augment.blur_sigma": (0.1, 2.0),
    "augment.blur_kernel": 0.1,
    "augment.solarize": (0.0,),
    "data.normalize": "unit",  # the code's preprocessing
    "data.mean": (),
    "model.encoder": "resnet50",  # section 2.1
    "model.width": 1.0,
    "model.projector_layers": 2,  # section 4.2
    "model.projector_hidden": 2048,
    "model.projector_dim": 128,
    "model.projector_norm": True,
    "model.norm_group": 0,  # section 2.2: global BatchNorm
    "optimizer.name": "lars",  # section 2.3
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 10.0,
    "optimizer.weight_decay": 1e-6,
    "optimizer.momentum": 0.9,  # the code's lars_optimizer.py, to the exclusions
    "optimizer.nesterov": False,
    "optimizer.trust_coefficient": 0.001,
    "optimizer.trust_clip": False,
    "optimizer.trust_eps": 0.0,
    "optimizer.exclude_norm_and_bias": True,
}
LARGE = {
    "data.source": "tfds:imagenet2012@train",
    "data.validation_source": "tfds:imagenet2012@validation",
    "data.size": 224,
    "model.stem": "imagenet",
    "train.epochs": 100,
}
TORCHVISION = {  # what the three ports to PyTorch share
    "augment.crop_ratio": (3 / 4, 4 / 3),
    "augment.horizontal_flip": (0.5,),
    "augment.jitter": (0.8,),
    "augment.brightness_mode": "multiplicative",
    "augment.antialias": True,  # Pillow's resize
    "model.encoder": "resnet18",
    "model.stem": "cifar",
    "model.projector_layers": 2,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.schedule": "cosine",
}
DKOBAK = {  # simclr-cifar10.py
    **TORCHVISION,
    "method.temperature": 0.5,
    "augment.crop_area": (0.2, 1.0),
    "augment.interpolation": "bilinear",
    "augment.jitter_strength": 1.0,
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.4,
    "augment.hue": 0.1,
    "augment.grayscale": (0.1,),
    "augment.blur": (0.0,),
    "model.projector_hidden": 1024,
    "model.projector_dim": 128,
    "model.projector_norm": False,
    "optimizer.name": "sgd",
    "optimizer.weight_decay": 5e-4,
    "optimizer.exclude_norm_and_bias": False,
    "optimizer.warmup_epochs": 0.0,
    "train.batch_size": 512,
    "evaluate.knn_k": 10,
}
ASYMMETRIC = {  # augmentations/asymmetric.yaml; the blur is in symmetric_weak.yaml alone
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.2,
    "augment.hue": 0.1,
    "augment.blur": (0.0,),
    "augment.solarize": (0.0, 0.2),
}
WEAK = {  # augmentations/symmetric_weak.yaml
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.4,
    "augment.hue": 0.1,
    "augment.blur": (0.5,),
    "augment.blur_kernel": 0.4,
    "augment.solarize": (0.0,),
}
SOLO = {  # scripts/pretrain/cifar/*.yaml and solo/methods/base.py
    **TORCHVISION,
    "augment.crop_area": (0.08, 1.0),
    "augment.grayscale": (0.2,),
    "optimizer.scaling": "linear",
    "optimizer.warmup_epochs": 10.0,
    "train.batch_size": 256,
    "train.epochs": 1000,
    "model.norm_views": "apart",
}
SOLO_LARS = {
    "optimizer.name": "lars",
    "optimizer.trust_coefficient": 0.02,
    "optimizer.trust_clip": True,
    "optimizer.exclude_norm_and_bias": True,
}
SOLO_SGD = {"optimizer.name": "sgd", "optimizer.exclude_norm_and_bias": False}


def solo(optimizer, rate, decay, layers, hidden, dim, norm=True):
    return {
        **optimizer,
        "optimizer.learning_rate": rate,
        "optimizer.weight_decay": decay,
        "model.projector_layers": layers,
        "model.projector_hidden": hidden,
        "model.projector_dim": dim,
        "model.projector_norm": norm,
    }


SOLO_METHODS = {
    "barlow": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 0.3, 1e-4, 3, 2048, 2048),
        "method.off_diagonal": 0.0051,
        "method.scale": 0.1,
    },
    "vicreg": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 0.3, 1e-4, 3, 2048, 2048),
        "augment.crop_area": (0.2, 1.0),
        "augment.solarize": (0.1,),
        "method.invariance": 25.0,
        "method.variance": 2 * 25.0,  # the sum over the views there, their mean here
        "method.covariance": 1.0,
    },
    "simsiam": {
        **WEAK,
        **solo(SOLO_SGD, 0.5, 1e-5, 3, 2048, 2048),
        "method.predictor_hidden": 512,
        "method.constant_predictor_rate": True,
    },
    "byol": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 1.0, 1e-5, 2, 4096, 256),
        "method.predictor_hidden": 4096,
        "method.momentum": 0.99,
        "method.momentum_end": 1.0,
    },
    "moco_v2": {
        **WEAK,
        **solo(SOLO_SGD, 0.3, 1e-4, 2, 2048, 256, norm=False),
        "method.temperature": 0.2,
        "method.queue": 32768,
        "method.momentum": 0.99,
        "method.momentum_end": 0.999,
        "method.symmetric": True,
    },
    "moco_v3": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 0.3, 1e-6, 2, 4096, 256),
        "method.temperature": 0.2,
        "method.predictor_hidden": 4096,
        "method.momentum": 0.99,
        "method.momentum_end": 1.0,
    },
    "nnclr": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 0.4, 1e-5, 3, 2048, 256),
        "method.temperature": 0.2,
        "method.predictor_hidden": 4096,
        "method.queue": 65536,
    },
    "swav": {
        **solo(SOLO_LARS, 0.6, 1e-6, 2, 2048, 128),
        "augment.brightness": 0.8,
        "augment.hue": 0.2,
        "augment.blur": (0.5,),
        "method.prototypes": 3000,
        "method.queue": 3840,
        "method.queue_epochs": 50.0,
        "method.frozen_epochs": 2.0,
        "method.temperature": 0.1,
        "method.epsilon": 0.05,
        "method.iterations": 3,
    },
    "dino": {
        **ASYMMETRIC,
        **solo(SOLO_LARS, 0.3, 1e-6, 3, 2048, 256, norm=False),
        "method.prototypes": 4096,
        "method.temperature": 0.1,
        "method.target_temperature": 0.07,
        "method.target_temperature_end": 0.07,
        "method.centre_momentum": 0.9,
        "method.momentum": 0.9995,
        "method.momentum_end": 1.0,
    },
    "sup_con": {
        **solo(SOLO_SGD, 0.4, 1e-5, 2, 2048, 256, norm=False),
        "augment.brightness": 0.8,
        "augment.hue": 0.2,
        "augment.blur": (0.5,),
        "method.loss": "sup_con",
        "method.temperature": 0.2,
    },
}
FACTS = {
    "imagenet_resnet50": {**PAPER, **LARGE, "train.batch_size": 4096},
    "imagenet_resnet50_small": {**PAPER, **LARGE, "train.batch_size": 256},  # appendix B.1
    "simclr_tf2_readme": {  # tf2/README.md, and tf2/run.py and tf2/data_util.py for the rest
        **PAPER,
        **LARGE,
        "train.batch_size": 4096,
        "augment.brightness_mode": "multiplicative",
        "model.projector_layers": 3,
        "optimizer.weight_decay": 1e-4,
    },
    "cifar10_resnet50": {  # appendix B.9
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
    "dkobak_cifar10": {**DKOBAK, "train.epochs": 1000, "data.normalize": "unit"},
    "solo_cifar10": {  # scripts/pretrain/cifar/simclr.yaml and augmentations/symmetric.yaml
        **TORCHVISION,
        "method.temperature": 0.2,
        "augment.crop_area": (0.08, 1.0),
        "augment.interpolation": "bicubic",
        "augment.jitter_strength": 1.0,
        "augment.brightness": 0.8,
        "augment.contrast": 0.8,
        "augment.saturation": 0.8,
        "augment.hue": 0.2,
        "augment.grayscale": (0.2,),
        "augment.blur": (0.5,),
        "augment.blur_sigma": (0.1, 2.0),
        "augment.solarize": (0.0,),
        "model.projector_hidden": 2048,
        "model.projector_dim": 256,
        "model.projector_norm": False,
        "optimizer.name": "lars",
        "optimizer.trust_coefficient": 0.02,
        "optimizer.trust_clip": True,
        "optimizer.trust_eps": 1e-8,  # solo/utils/lars.py
        "optimizer.exclude_norm_and_bias": True,
        "optimizer.weight_decay": 1e-4,
        "optimizer.warmup_epochs": 10.0,  # solo/methods/base.py
        "train.batch_size": 256,
        "train.epochs": 1000,
    },
    **{f"solo_cifar10_{name}": {**SOLO, **values} for name, values in SOLO_METHODS.items()},
    "lightly_cifar10": {  # cifar10_benchmark.py, lightly/transforms/simclr_transform.py
        **TORCHVISION,
        "method.temperature": 0.5,
        "augment.crop_area": (0.08, 1.0),
        "augment.interpolation": "bilinear",
        "augment.jitter_strength": 0.5,
        "augment.brightness": 0.8,
        "augment.contrast": 0.8,
        "augment.saturation": 0.8,
        "augment.hue": 0.2,
        "augment.grayscale": (0.2,),
        "augment.blur": (0.0,),
        "data.mean": (0.485, 0.456, 0.406),
        "data.std": (0.229, 0.224, 0.225),
        "model.projector_hidden": 512,
        "model.projector_dim": 128,
        "model.projector_norm": True,
        "optimizer.name": "sgd",
        "optimizer.weight_decay": 5e-4,
        "optimizer.exclude_norm_and_bias": False,
        "optimizer.warmup_epochs": 0.0,
        "train.batch_size": 512,
        "train.epochs": 200,
        "evaluate.knn_k": 200,
        "evaluate.knn_temperature": 0.1,
    },
    "imagenet_vit_small_moco_v3": {  # the README's command for ViT-S, main_moco.py, vits.py
        **LARGE,
        "method.temperature": 0.2,
        "method.momentum": 0.99,
        "method.momentum_end": 1.0,
        "method.predictor_hidden": 4096,
        "augment.crop_area": (0.08, 1.0),
        "augment.interpolation": "bilinear",
        "augment.jitter": (0.8,),
        "augment.brightness": 0.4,
        "augment.contrast": 0.4,
        "augment.saturation": 0.2,
        "augment.hue": 0.1,
        "augment.grayscale": (0.2,),
        "augment.blur": (1.0, 0.1),
        "augment.solarize": (0.0, 0.2),
        "data.mean": (0.485, 0.456, 0.406),
        "model.encoder": "vit_small",
        "model.patch": 16,
        "model.heads": 12,
        "model.positions": "sincos_moco_v3",
        "model.freeze_patch_projection": True,
        "model.norm_views": "apart",
        "model.projector_layers": 3,
        "model.projector_hidden": 4096,
        "model.projector_dim": 256,
        "optimizer.name": "adamw",
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.999,
        "optimizer.weight_decay": 0.1,
        "optimizer.exclude_norm_and_bias": False,
        "optimizer.warmup_epochs": 40.0,
        "train.batch_size": 4096,
        "train.epochs": 300,
    },
    "imagenet_vit_small_dino": {  # README, defaults of main_dino.py, DataAugmentationDINO
        **LARGE,
        "method.prototypes": 65536,
        "method.temperature": 0.1,
        "method.target_temperature": 0.04,
        "method.target_temperature_end": 0.04,
        "method.centre_momentum": 0.9,
        "method.momentum": 0.996,
        "method.momentum_end": 1.0,
        "method.frozen_epochs": 1.0,
        "method.local_views": 8,
        "method.local_size": 96,
        "method.local_area": (0.05, 0.4),
        "method.local_blur": 0.5,
        "augment.crop_area": (0.4, 1.0),
        "augment.interpolation": "bicubic",
        "augment.brightness": 0.4,
        "augment.contrast": 0.4,
        "augment.saturation": 0.2,
        "augment.hue": 0.1,
        "augment.grayscale": (0.2,),
        "augment.blur": (1.0, 0.1),
        "augment.solarize": (0.0, 0.2),
        "data.mean": (0.485, 0.456, 0.406),
        "model.encoder": "vit_small",
        "model.patch": 16,
        "model.drop_path": 0.1,
        "model.projector_layers": 3,
        "model.projector_hidden": 2048,
        "model.projector_dim": 256,
        "model.projector_norm": False,
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 0.04,
        "optimizer.weight_decay_end": 0.4,
        "optimizer.clip_tensor_norm": 3.0,
        "optimizer.exclude_norm_and_bias": True,
        "train.batch_size": 512,
        "train.epochs": 100,
    },
    "imagenet_vit_base_mae": {  # PRETRAIN.md, main_pretrain.py, models_mae.py
        **LARGE,
        "method.masked": 0.75,
        "method.normalize_pixels": True,
        "method.decoder_layers": 8,
        "method.decoder_hidden": 512,
        "method.decoder_heads": 16,
        "augment.crop_area": (0.2, 1.0),
        "augment.interpolation": "bicubic",
        "augment.horizontal_flip": (0.5,),
        "augment.jitter": (0.0,),
        "augment.grayscale": (0.0,),
        "augment.blur": (0.0,),
        "data.mean": (0.485, 0.456, 0.406),
        "model.encoder": "vit_base",
        "model.patch": 16,
        "model.positions": "sincos_mae",
        "optimizer.name": "adamw",
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.95,
        "optimizer.weight_decay": 0.05,
        "optimizer.exclude_norm_and_bias": True,
        "train.batch_size": 4096,
        "train.epochs": 800,
    },
    "imagenet_resnet50_swav": {  # scripts/swav_400ep_bs256_pretrain.sh, main_swav.py
        **LARGE,
        "method.prototypes": 3000,
        "method.queue": 3840,
        "method.queue_epochs": 15.0,
        "method.frozen_epochs": 1.0,  # 5,005 iterations of 256 images
        "method.temperature": 0.1,
        "method.epsilon": 0.05,
        "method.iterations": 3,
        "method.local_views": 6,
        "method.local_size": 96,
        "method.local_area": (0.05, 0.14),
        "augment.crop_area": (0.14, 1.0),
        "augment.brightness": 0.8,
        "augment.contrast": 0.8,
        "augment.saturation": 0.8,
        "augment.hue": 0.2,
        "augment.grayscale": (0.2,),
        "augment.blur": (0.5,),
        "augment.solarize": (0.0,),
        "data.std": (0.228, 0.224, 0.225),
        "model.projector_hidden": 2048,
        "optimizer.name": "lars",
        "optimizer.trust_coefficient": 0.001,
        "optimizer.exclude_norm_and_bias": False,
        "optimizer.weight_decay": 1e-6,
        "train.batch_size": 256,
        "train.epochs": 400,
    },
    "folder": {  # of the paper's appendix B.1, and the authors' advice in their issue 166
        "optimizer.name": "lars",
        "optimizer.scaling": "sqrt",
        "optimizer.learning_rate": 0.075,
        "method.temperature": 0.2,
        "data.source": "images",
        "data.size": 128,
        "model.encoder": "resnet18",
        "train.batch_size": 256,
    },
}
# (training images, peak learning rate, steps of an epoch, steps of warm-up): rates as the sources
# write them; an epoch is the whole batches in the set.
DERIVED = {
    "imagenet_resnet50": (IMAGENET, 4.8, 312, 3120),
    "imagenet_resnet50_small": (IMAGENET, 0.075 * 16, 5004, 50040),
    "imagenet_vit_small_moco_v3": (IMAGENET, 1.5e-4 * 16, 312, 40 * 312),
    "imagenet_vit_small_dino": (IMAGENET, 5e-4 * 2, 2502, 10 * 2502),
    "imagenet_resnet50_swav": (IMAGENET, 0.6, 5004, 0),
    "imagenet_vit_base_mae": (IMAGENET, 1.5e-4 * 16, 312, 40 * 312),
    "simclr_tf2_readme": (IMAGENET, 0.075 * math.sqrt(4096), 312, 3120),
    "cifar10_resnet50": (CIFAR, 1.0 * 1024 / 256, 48, 480),
    "cifar10_resnet18": (CIFAR, 0.06 * 512 / 256, 97, 0),
    "dkobak_cifar10": (CIFAR, 0.03 * 512 / 256, 97, 0),
    "solo_cifar10": (CIFAR, 0.4, 195, 1950),
    "lightly_cifar10": (CIFAR, 0.06 * 512 / 128, 97, 0),
    "solo_cifar10_byol": (CIFAR, 1.0, 195, 1950),
    "solo_cifar10_simsiam": (CIFAR, 0.5, 195, 1950),
}
# What the sources publish: accuracies in %, then cost. The header must say each of them.
PUBLISHED = {
    "imagenet_resnet50": ("64.6", "64.5", "66.5", "68.2", "68.9", "128 TPU v3", "1.5 hours"),
    "imagenet_resnet50_small": ("62.8", "64.3", "57.5", "61.9", "4 days on two RTX 4090"),
    "simclr_tf2_readme": ("64.5", "91 %", "32 TPU v3", "6 hours"),
    "cifar10_resnet50": ("94.0", "95.1", "93.4", "13 hours on two V100"),
    "cifar10_resnet18": ("83.2 +- 0.2", "85.6 +- 0.2", "A100", "20 minutes"),
    "dkobak_cifar10": ("91.4 +- 0.0", "91.7 +- 0.1", "A100", "11.9 s"),
    "solo_cifar10": ("90.74", "online"),
    "solo_cifar10_barlow": ("92.10", "online"),
    "solo_cifar10_vicreg": ("92.07", "online"),
    "solo_cifar10_simsiam": ("90.51", "online"),
    "solo_cifar10_byol": ("92.58", "online"),
    "solo_cifar10_moco_v2": ("92.94", "online"),
    "solo_cifar10_moco_v3": ("93.10", "online"),
    "solo_cifar10_nnclr": ("91.88", "online"),
    "solo_cifar10_sup_con": ("93.82", "online"),
    "solo_cifar10_swav": ("89.17", "online"),
    "solo_cifar10_dino": ("89.52", "online"),
    "imagenet_vit_small_dino": ("69.3", "73.8", "8 GPUs", "1.75 days"),
    "imagenet_vit_base_mae": ("68.0", "83.6", "64 V100", "42 hours"),
    "imagenet_resnet50_swav": ("74.3", "4 GPUs", "72 hours"),
    "imagenet_vit_small_moco_v3": ("73.2", "76.7", "linear classifier"),
    "lightly_cifar10": ("84.8", "87.9", "maximum over epochs", "A6000, 87 minutes", "4.9 GB"),
}


def header(name: str) -> str:
    return importlib.import_module(f"cssl_jax.configs.{name}").__doc__


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_has_its_sources_values(name):
    config = recipes.load(name)
    found = {field: operator.attrgetter(field)(config) for field in FACTS[name]}
    assert found == FACTS[name]


# Parameters of the BatchNorm after the last layer of the head, by method; SimCLR's has a scale.
LAST_NORM = {
    "barlow_twins": set(),
    "vicreg": set(),
    "byol": set(),
    "simsiam": set(),
    "moco_v3": set(),
    "nnclr": {"scale", "bias"},
    "swav": set(),
}


def method_of(config):
    return builders.make_method(config, spmd.make_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("name", DERIVED)
def test_the_learning_rate_peaks_where_the_source_says(name):
    images, peak, steps, warmup = DERIVED[name]
    config = recipes.load(name)
    sampler = Sampler(images, config.train.batch_size, 0)
    _, schedule, total = builders.make_optimizer(config, sampler, method_of(config))
    assert sampler.steps_per_epoch == steps
    assert total == steps * config.train.epochs
    middle = warmup + (total - warmup) / 2
    rates = [float(schedule(step)) for step in (0, warmup / 2, warmup, middle, total)]
    start = [0.0, 0.5] if warmup else [1.0, 1.0]
    # A line to the peak, half a cosine from there; rates are float32.
    np.testing.assert_allclose(np.array(rates) / peak, [*start, 1.0, 0.5, 0.0], atol=1e-5)


def test_square_root_scaling_is_one_option_away_and_equal_at_4096():
    large, small = recipes.load("imagenet_resnet50"), recipes.load("imagenet_resnet50_small")
    root = dataclasses.replace(small, train=dataclasses.replace(small.train, batch_size=4096))
    assert set(recipes.differing_fields(large, root)) == {
        "optimizer.scaling",
        "optimizer.learning_rate",
    }
    sampler = Sampler(IMAGENET, 4096, 0)
    rates = [
        builders.make_optimizer(config, sampler, method_of(config))[1](3120)
        for config in (large, root)
    ]
    np.testing.assert_allclose(rates, 4.8, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    fast(
        sorted(set(FACTS) - {"imagenet_vit_base_mae"}),  # it has no head
        ["cifar10_resnet18", "imagenet_resnet50"],
    ),
)
def test_the_model_has_the_heads_widths(name):
    config = recipes.load(name)
    method = method_of(config)
    size = config.data.size or 32
    spec = ImageSpec(size=size, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    sampler = Sampler(IMAGENET, config.train.batch_size, 0)
    optimizer, _, _ = builders.make_optimizer(config, sampler, method)
    state = train_state.state_shapes(method, optimizer, spec)
    head = state.params["projector"]
    features = {"resnet18": 512, "resnet50": 2048, "vit_small": 384}[config.model.encoder]
    hidden = FACTS[name].get("model.projector_hidden", features)
    layers = FACTS[name].get("model.projector_layers", 2)
    out = FACTS[name].get("model.projector_dim", 128)
    widths = [features, *[hidden] * (layers - 1), out]
    dense = {key: leaf["kernel"].shape for key, leaf in head.items() if key.startswith("dense")}
    assert dense == {f"dense{i + 1}": (widths[i], widths[i + 1]) for i in range(layers)}
    last = LAST_NORM.get(config.method.name, {"scale"})
    norms = layers if FACTS[name].get("model.projector_norm", True) else 0
    found = {key: set(leaf) for key, leaf in head.items() if key.startswith("bn")}
    expected = {f"bn{i}": {"scale", "bias"} for i in range(1, norms)}
    assert found == expected | ({f"bn{norms}": last} if norms and last else {})
    biases = {key for key in dense if "bias" in head[key]}
    assert biases == (
        {f"dense{layers}"}
        if norms and config.method.name == "swav"
        else set()
        if norms
        else set(dense)
    )
    predictor = state.params.get("predictor", {})
    assert ("predictor" in state.params) == hasattr(config.method, "predictor_hidden")
    if predictor:
        hidden = config.method.predictor_hidden
        assert predictor["dense1"]["kernel"].shape == (out, hidden)
        assert predictor["dense2"]["kernel"].shape == (hidden, out)
        assert set(predictor) == {"dense1", "bn1", "dense2"}


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_every_recipe_is_valid_and_its_header_says_whence_what_to_expect_and_how_to_run(name):
    assert isinstance(recipes.load(name), Config)
    for part in ("Source: ", "Expected", f"Command: cssl-jax (pretrain {name} |demo )"):
        assert re.search(f"^{part}", header(name), re.MULTILINE), part


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipes_header_says_what_differs_and_what_the_source_scored(name):
    for part in ("Different here: ", "Expected there", "Hardware and time"):
        assert re.search(f"^{part}", header(name), re.MULTILINE), part
    expected = " ".join(header(name).partition("\nExpected there")[2].split())
    assert [figure for figure in PUBLISHED[name] if figure not in expected] == []


@pytest.mark.parametrize("name", FACTS)
def test_a_summary_is_a_line_with_data_encoder_batch_and_epochs(name):
    config, summary = recipes.load(name), recipes.recipe_summary(name)
    assert len(summary) <= 80
    assert config.model.encoder.replace("resnet", "ResNet-") in summary
    assert f"batch {config.train.batch_size}, {config.train.epochs} epochs" in summary
    methods = (
        "SimCLR|Barlow Twins|VICReg|SimSiam|BYOL|MoCo v2\\+|MoCo v3|NNCLR|SwAV|DINO|MAE|SupCon"
    )
    assert re.match(rf"({methods}) on (ImageNet|CIFAR-10|your own images), ", summary)


def documented_rows():
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    section = page.partition("\n## All recipes\n")[2].partition("\n## ")[0]
    return {
        row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|$", section, re.M)
    }


def test_the_document_lists_every_recipe():
    assert sorted(documented_rows()) == recipes.recipe_names()


@pytest.mark.parametrize("name", FACTS)
def test_the_document_has_the_recipes_values_and_what_its_header_expects(name):
    config, (run, optimizer, published) = recipes.load(name), documented_rows()[name]
    assert config.model.encoder.replace("resnet", "ResNet-") in run
    batch, epochs = map(int, re.search(r", (\d+), (\d+) $", run).groups())
    assert (batch, epochs) == (config.train.batch_size, config.train.epochs)
    words = optimizer.strip().lower().split(", ")
    assert words[0] == config.optimizer.name
    scaling = {"linear": "linear", "square root": "sqrt"}
    assert all(
        scaling.get(word, config.optimizer.scaling) == config.optimizer.scaling for word in words
    )
    assert ("clipped" in words) == config.optimizer.trust_clip
    figures = re.findall(r"\d\d\.\d", published)
    assert bool(figures) == (name in PUBLISHED)
    assert all(figure in header(name) for figure in figures)


def test_the_diff_shows_what_two_recipes_set_differently():
    assert recipes.diff("imagenet_resnet50", "simclr_tf2_readme").splitlines() == [
        "field                    imagenet_resnet50  simclr_tf2_readme",
        'augment.brightness_mode  "additive"         "multiplicative"',
        "model.projector_layers   2                  3",
        "optimizer.learning_rate  0.3                0.075",
        'optimizer.scaling        "linear"           "sqrt"',
        "optimizer.weight_decay   1e-06              0.0001",
    ]


def test_a_description_has_the_header_and_exactly_the_fields_that_give_the_recipe(tmp_path):
    *_, table = recipes.describe("digits").split("\n\n")
    assert recipes.describe("digits").startswith(header("digits").strip())
    rows = [re.split(r" {2,}", row) for row in table.splitlines()]
    assert rows[0] == ["field", "value", "default"]
    values = {name: json.loads(value) for name, value, _ in rows[1:]}
    assert recipes.override(Config(), values) == recipes.load("digits")
    assert ["train.batch_size", "128", "256"] in rows
    assert all(value != default for _, value, default in rows[1:])

    path = tmp_path / "finetune.json"
    classifier = recipes.with_method(Config(), "classifier").replace({"classifier.num_classes": 3})
    path.write_text(recipes.to_json(classifier))
    rows = {tuple(line.split()) for line in recipes.describe(str(path)).splitlines()[1:]}
    assert rows == {
        ("method.name", '"classifier"', '"simclr"'),
        ("classifier.num_classes", "3", "0"),
    }
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\nfrom cssl_jax.config import Config as get_config\n')
    assert recipes.describe(str(path)) == "Mine.\n\nall fields at default"


def test_the_diff_of_the_same_says_so_and_omits_what_determines_no_result(tmp_path):
    assert recipes.diff("digits", "digits") == "digits and digits compute the same"
    config = recipes.load("digits")
    kept = dataclasses.replace(config, train=dataclasses.replace(config.train, keep=7))
    path = tmp_path / "config.json"
    path.write_text(recipes.to_json(kept))
    assert recipes.diff("digits", str(path)) == f"digits and {path} compute the same"
    with pytest.raises(UserError, match="did you mean 'digits'"):
        recipes.diff("digits", "digit")


@pytest.mark.parametrize("recipe", ["folder", "debug", "digits"])
@pytest.mark.parametrize("name", sorted(LAST_NORM | {"moco_v2": set()}))
def test_a_methods_name_brings_its_head_and_keeps_the_recipe(recipe, name):
    base = recipes.load(recipe)
    config = recipes.override(base, {"method.name": name})
    head = {key.removeprefix("model.") for key in recipes.differing_fields(base, config)}
    assert {key for key in head if not key.startswith("method.")} <= {
        *("norm_views", "projector_layers", "projector_hidden", "projector_dim"),
        *("projector_norm",),
    }
    assert config.optimizer == base.optimizer
    assert config.model.norm_views == ("joint" if name == "swav" else "apart")
    given = recipes.override(base, {"method.name": name, "model.projector_dim": 24})
    assert given.model.projector_dim == 24
