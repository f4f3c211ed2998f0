"""ViTs with Hugging Face's names are recognised and compute what transformers computes."""

import functools
import json
import pathlib
import runpy
import types

import jax
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop import preprocessing
from cssl_jax.interop.encoders import find_encoder, stated_heads
from cssl_jax.interop.vit.huggingface_vit import huggingface_names, joined, to_timm
from cssl_jax.interop.vit.vit_weights import ViTArchitecture, find_vit, shapes
from cssl_jax.models.registry import build_encoder

GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"
# Imported by path: huggingface.npz was created with the same functions.
seeded = types.SimpleNamespace(**runpy.run_path(str(GOLDENS / "seeded_weights.py")))
CASES = ("vit", "dinov2")


@functools.cache
def goldens():
    with np.load(GOLDENS / "huggingface.npz") as stored:
        return dict(stored)


def content(case):
    """A file of weights with the names and shapes that transformers writes."""
    stated = json.loads(str(goldens()[f"{case}/shapes"]))
    stated = {key: tuple(shape) for key, shape in stated.items()}
    return seeded.seeded_weights(stated, int(goldens()[f"{case}/seed"]))


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_transformers(case, tmp_path):
    (tmp_path / "config.json").write_text(str(goldens()[f"{case}/config"]))
    heads = stated_heads(tmp_path / "model.safetensors", {})
    found = find_encoder(content(case), heads=heads)
    options = {name: found.model[name] for name in ("width", "patch", "heads", "layer_scale")}
    encoder = build_encoder(found.model["encoder"], axis_name=None, norm_groups=1, **options)
    images = seeded.seeded_images(goldens()["input_shape"], int(goldens()[f"{case}/seed"]))
    features = jax.jit(encoder.apply)(found.variables, images.astype(np.float32))["features"]
    expected = goldens()[f"{case}/features"]
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_the_written_names_and_shapes_are_those_of_transformers(case):
    theirs = {
        key: array.shape
        for key, array in content(case).items()
        if not key.startswith(("pooler.", "embeddings.mask_token"))
    }
    architecture = ViTArchitecture(
        encoder="vit_micro",
        width=1 / 8,
        patch=4,
        heads=3,
        pool="token",
        layer_scale=case == "dinov2",
        size=8,
        channels=3,
    )
    own = {key: np.zeros(shape) for key, shape in shapes(architecture).items()}
    assert {key: array.shape for key, array in huggingface_names(own).items()} == theirs


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_are_the_same_arrays(case):
    given = content(case)
    back = huggingface_names(joined({to_timm(key): array for key, array in given.items()}))
    rest = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"}
    assert set(back) ^ set(given) <= rest | {"mask_token"}
    for key in set(given) - rest:
        np.testing.assert_array_equal(back[key], given[key], strict=True)


def test_a_classifier_beside_the_model_is_left():
    named = {f"vit.{key}": array for key, array in content("vit").items()}
    found = find_vit({**named, "classifier.weight": np.zeros((2, 24))}, heads=3)
    assert found.branch.prefix == "vit."
    taken = [use.count for use in found.uses if use.status == "taken"]
    assert taken == [len(named) - 2]
    assert ("left", 2, "vit.pooler: no part of the encoder") in {
        (use.status, use.count, use.what) for use in found.uses
    }


QUERY, KEY = (f"encoder.layer.1.attention.attention.{part}.bias" for part in ("query", "key"))


@pytest.mark.parametrize(
    ("without", "added", "message"),
    [
        (KEY, {}, r"lack blocks\.1\.attn\.key\.bias, and have blocks\.1\.attn\.query\.bias"),
        (QUERY, {}, r"lack blocks\.1\.attn\.query\.bias, and have"),
        (None, {"embeddings.register_tokens": np.zeros((1, 4, 24))}, "with register tokens"),
        (None, {"encoder.layer.0.mlp.weights_in.bias": np.zeros(9)}, "weights_in.bias is no part"),
    ],
)
def test_other_networks_are_refused_with_the_reason(without, added, message):
    given = {key: array for key, array in content("dinov2").items() if key != without}
    with pytest.raises(UserError, match=message):
        find_vit({**given, **added}, heads=3)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        # google/vit-base-patch16-224: the whole image, squeezed to a square.
        (
            {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 224, "width": 224},
                "resample": 2,
            },
            (224, 1.0, "bilinear"),
        ),
        # facebook/dinov2-base: the centre of the image with its shorter side at 256.
        (
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
            },
            (224, 0.875, "bicubic"),
        ),
        # microsoft/resnet-50.
        (
            {
                "feature_extractor_type": "ConvNextFeatureExtractor",
                "size": 224,
                "crop_pct": 0.875,
                "resample": 3,
            },
            (224, 0.875, "bicubic"),
        ),
    ],
)
def test_preprocessing_is_that_of_each_processor(stated, expected, tmp_path):
    stated = {**stated, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    found = preprocessing.from_folder(tmp_path)
    assert (found.size, found.crop_fraction, found.interpolation) == expected
