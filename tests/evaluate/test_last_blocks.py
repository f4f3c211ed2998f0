"""Features of the last blocks of a ViT are those of shorter ViTs with the same weights."""

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.config import EvaluateConfig
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.last_blocks import describe_blocks, with_last_blocks
from cssl_jax.models.registry import build_encoder
from cssl_jax.models.vit import ViT
from helpers import tiny
from tests.helpers.marks import slow


def encoder_of(layers, pool="token"):
    return ViT(layers=layers, hidden=24, heads=3, patch=4, pool=pool)


@pytest.mark.parametrize("pool", ["token", slow("mean")])
def test_features_of_a_block_are_those_of_a_vit_that_ends_there(pool):
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = encoder_of(3, pool).init(jax.random.key(0), images)
    found = with_last_blocks(encoder_of(3, pool), EvaluateConfig(blocks=3, patch_mean=True))
    features = jax.jit(lambda v, x: found.apply(v, x, train=False))(variables, images)["features"]
    assert features.shape == (2, 4 * 24)
    for count in (1, 2, 3):
        params = {
            name: value
            for name, value in variables["params"].items()
            if not name.startswith("block") or int(name.removeprefix("block")) <= count
        }
        outputs = jax.jit(encoder_of(count, pool).apply)({"params": params}, images)
        own = features[:, 24 * (count - 1) : 24 * count]
        np.testing.assert_allclose(own, outputs["features"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features[:, 72:], outputs["tokens"].mean(axis=1), rtol=1e-5)


def test_the_default_is_the_encoder_itself():
    encoder = encoder_of(2)
    assert with_last_blocks(encoder, EvaluateConfig()) is encoder
    assert describe_blocks(EvaluateConfig()) == []


def test_encoders_without_so_many_blocks_are_refused():
    resnet = build_encoder("resnet10", axis_name=None, norm_groups=1)
    with pytest.raises(UserError, match=r"blocks is 4 .* this encoder has no patches"):
        with_last_blocks(resnet, EvaluateConfig(blocks=4))
    with pytest.raises(UserError, match="blocks is 4; this encoder has 1 to 2 blocks"):
        with_last_blocks(encoder_of(2), EvaluateConfig(blocks=4))


@pytest.mark.slow
def test_a_run_is_evaluated_with_the_blocks_asked_for_and_says_so(tmp_path):
    recipe = recipes.load(tiny.write_recipe(tmp_path, epochs=1))
    values = {"model.encoder": "vit_micro", "model.width": 1 / 8, "model.patch": 4}
    cssl_jax.pretrain(recipe.replace({**values, "runtime.devices": 1}), tmp_path / "run")
    options = recipe.evaluate
    plain = cssl_jax.evaluate_run(tmp_path / "run", "knn", options=options)
    asked = tiny.replace(recipe, "evaluate", blocks=2).evaluate
    both = cssl_jax.evaluate_run(tmp_path / "run", "knn", options=asked)
    assert both.notes[-1] == "features: those after each of the last 2 block(s)"
    assert not any("block" in note for note in plain.notes or ())
