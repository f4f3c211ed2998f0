"""Sheets of a Vision Transformer's patches and of reconstructions, and a report that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.methods import mae
from cssl_jax.models.vit.decoder import PatchDecoder
from cssl_jax.models.vit.vit import ViT, patches_of
from cssl_jax.report.figures.token_maps import class_attention, principal_colours
from helpers import tiny


def test_the_first_principal_axis_becomes_red():
    rng = np.random.default_rng(0)
    direction = np.array([3.0, 4.0, 0.0, 0.0]) / 5
    place = np.linspace(-1, 1, 50).reshape(2, 25)
    tokens = 10 * place[:, :, None] * direction + 0.01 * rng.normal(size=(2, 25, 4)) + 7
    colours = principal_colours(tokens)
    assert colours.shape == (2, 25, 3)
    assert (colours.min(), colours.max()) == (0, 1)
    assert abs(np.corrcoef(colours[..., 0].ravel(), place.ravel())[0, 1]) > 0.999


def test_axes_that_do_not_exist_are_black():
    colours = principal_colours(np.arange(8.0).reshape(2, 4, 1))
    assert colours[..., 0].max() == 1
    assert not colours[..., 1:].any()


def test_the_attention_is_that_of_the_class_token_to_each_patch():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 2, 5, 3, 4))
    found = class_attention({"query": (query,), "key": (key,)})
    for n in range(2):
        for head in range(3):
            scores = [query[n, 0, head] @ key[n, k, head] / 2 for k in range(5)]
            weights = np.exp(scores) / np.sum(np.exp(scores))
            expected = weights[1:] / max(weights[1:])
            np.testing.assert_allclose(found[n, head], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_vit_keeps_queries_and_keys_only_where_they_are_asked_for():
    vit, images = ViT(layers=2, hidden=24, heads=3, patch=4), np.zeros((1, 8, 8, 3), np.float32)
    variables = vit.init(jax.random.key(0), images)
    assert set(variables) == {"params"}
    outputs, kept = vit.apply(variables, images, mutable=["attention"])
    assert kept["attention"]["block2"]["query"][0].shape == (1, 5, 3, 8)
    np.testing.assert_array_equal(outputs["features"], vit.apply(variables, images)["features"])


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_a_reconstruction_has_the_visible_patches_and_predictions_of_the_others(normalize):
    vit = ViT(layers=1, hidden=12, heads=3, patch=2)
    method = mae.MAE(vit, PatchDecoder(1, 8, 2), normalize_pixels=normalize)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 8, 8, 3)).astype(np.float32))
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
    batch = {"views": {"main": images}, "key": keys}
    params, state = method.init(jax.random.key(1), {"views": batch["views"]})
    seen, rebuilt, errors = method.reconstruct(params, state, batch)
    order = np.asarray(method.order(batch))
    original, seen, rebuilt = (np.asarray(patches_of(x, 2)) for x in (images[:, 0], seen, rebuilt))
    for n in range(3):
        visible, hidden = order[n, :4], order[n, 4:]
        np.testing.assert_array_equal(seen[n, visible], original[n, visible])
        np.testing.assert_array_equal(rebuilt[n, visible], original[n, visible])
        assert not seen[n, hidden].any()
        gap = rebuilt[n, hidden] - original[n, hidden]
        if normalize:
            gap = gap / np.sqrt(original[n, hidden].var(axis=1, ddof=1, keepdims=True) + 1e-6)
        assert np.mean(gap**2) == pytest.approx(float(errors[n]), rel=1e-4)


@pytest.mark.slow
def test_the_report_of_a_masked_autoencoder_shows_both_sheets(tmp_path):
    recipe = recipes.load(tiny.write_recipe(tmp_path, epochs=1))
    values = {
        "method.name": "mae",
        "model.encoder": "vit_micro",
        "model.width": 1 / 8,
        "model.patch": 2,
        "method.decoder_layers": 1,
        "method.decoder_hidden": 8,
        "method.decoder_heads": 2,
        "augment.solarize": (0.0,),
        "augment.blur": (0.0,),
        "runtime.devices": 1,
    }
    cssl_jax.pretrain(recipes.override(recipe, values), tmp_path / "run")
    path = cssl_jax.write_report([tmp_path / "run"], figures=False)
    page = path.read_text()
    for title in ("Reconstructions", "Patches"):
        assert f">{title}</h2>" in page
    assert page.count("image/jpeg") == 3  # views, reconstructions, patches
