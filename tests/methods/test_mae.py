"""MAE: agreement with transformers, its masks, its loss, the same step on any devices."""

import functools
import json
import pathlib
import re
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.interop.vit.huggingface_vit import joined, to_timm
from cssl_jax.interop.vit.timm_vit import from_timm
from cssl_jax.methods import mae
from cssl_jax.methods.base import Context
from cssl_jax.models.vit.decoder import PatchDecoder
from cssl_jax.models.vit.vit import ViT, patches_of
from cssl_jax.planning import planner
from cssl_jax.planning.shapes import DataShapes
from cssl_jax.planning.vit_formulas import vit_layers
from cssl_jax.runtime import spmd
from helpers import method_cases, tiny
from helpers.comparison import run_differences
from helpers.products import products
from tests.helpers.marks import slow

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"
seeded = types.SimpleNamespace(**runpy.run_path(str(GOLDENS / "seeded_weights.py")))
CTX = Context(jnp.int32(0), 10, None)


def config(**values):
    return method_cases.config("mae", **values)


def method_of(changed):
    return builders.make_method(changed, spmd.make_mesh(jax.devices()[:1]))


def initialised(method, batch):
    """(params, model_state) of a method for a batch, drawn by one compiled program."""
    return jax.jit(method.init)(jax.random.key(0), {"views": batch["views"]})


# ------------------------------------------------------------------ agreement with transformers


@functools.cache
def goldens():
    with np.load(GOLDENS / "huggingface.npz") as stored:
        return {k.removeprefix("mae/"): v for k, v in stored.items() if k.startswith("mae/")}


def blocks_below(weights, prefix):
    """Parameters of our blocks from transformers' layers below a prefix."""
    below = {
        "encoder.layer." + key.removeprefix(prefix): array
        for key, array in weights.items()
        if key.startswith(prefix)
    }
    return from_timm(joined({to_timm(key): array for key, array in below.items()}))["params"]


def transformers_params(weights):
    """Parameters of encoder and decoder from the state dict of ViTMAEForPreTraining."""
    encoder = {
        to_timm(key.removeprefix("vit.")): array
        for key, array in weights.items()
        if key.startswith("vit.")
    }
    dense = {
        ours: {
            "kernel": weights[f"decoder.{theirs}.weight"].T,
            "bias": weights[f"decoder.{theirs}.bias"],
        }
        for ours, theirs in (("embed", "decoder_embed"), ("pixels", "decoder_pred"))
    }
    norm = {
        "scale": weights["decoder.decoder_norm.weight"],
        "bias": weights["decoder.decoder_norm.bias"],
    }
    decoder = {
        **dense,
        "norm": norm,
        "mask_token": weights["decoder.mask_token"][0, 0],
        **blocks_below(weights, "decoder.decoder_encoder.layer."),
    }
    return {"encoder": from_timm(joined(encoder))["params"], "decoder": decoder}


def predictions_and_loss(method, params, batch):
    state = {"encoder": {}, "decoder": {}}
    predicted, _ = method.encode(params, state, {}, batch, CTX)
    targets, _ = method.targets(params, state, {}, batch, CTX)
    return predicted, method.objective(params, {}, predicted, {"targets": targets}, CTX)[0]


def test_predictions_and_loss_are_those_of_transformers(monkeypatch):
    shapes = {k: tuple(v) for k, v in json.loads(str(goldens()["shapes"])).items()}
    seed = int(goldens()["seed"])
    weights = seeded.seeded_weights(shapes, seed)
    stored = {key: np.float64(np.float32(array)) for key, array in weights.items()}
    params = transformers_params(stored)
    encoder = ViT(layers=2, hidden=24, heads=3, patch=2, positions="sincos_mae")
    method = mae.MAE(encoder, PatchDecoder(2, 16, 2))
    order = np.argsort(goldens()["noise"], axis=1).astype(np.int32)
    monkeypatch.setattr(mae.MAE, "order", lambda self, batch: jnp.asarray(order))
    with jax.enable_x64(True):
        batch = {"views": {"main": jnp.asarray(seeded.seeded_images((2, 8, 8, 3), seed))[:, None]}}
        predicted, loss = jax.jit(functools.partial(predictions_and_loss, method, params))(batch)
    hidden = order[:, 4:]
    assert np.take_along_axis(goldens()["mask"], hidden, axis=1).all()
    theirs = np.take_along_axis(goldens()["predictions"], hidden[:, :, None], axis=1)
    np.testing.assert_allclose(predicted, theirs, rtol=1e-9, atol=1e-9)
    assert float(loss) == pytest.approx(float(goldens()["loss"]), rel=1e-9)


# ------------------------------------------------------------------------------ masks and targets


def batch_of(rows=6, size=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), rows))
    images = rng.normal(size=(rows, 1, size, size, channels)).astype(np.float32)
    return {"views": {"main": jnp.asarray(images)}, "key": keys}


@pytest.mark.parametrize(
    ("patches", "masked", "visible"), [(196, 0.75, 49), (64, 0.75, 16), (49, 0.75, 12), (4, 0.9, 1)]
)
def test_the_number_of_visible_patches_is_the_whole_part_of_their_fraction(
    patches, masked, visible
):
    assert mae.visible_patches(patches, masked) == visible


def test_every_image_hides_patches_of_its_own_whatever_batch_it_is_in():
    method, batch = method_of(config()), batch_of(rows=400)
    order = np.asarray(method.order(batch))
    assert order.shape == (400, 16)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(16), (400, 1)))
    assert len(np.unique(order, axis=0)) == 400
    part = method.order(jax.tree.map(lambda x: x[7:9], batch))
    np.testing.assert_array_equal(part, order[7:9])
    visible = np.bincount(order[:, :4].ravel(), minlength=16) / 400
    # A patch is visible with probability 1/4: four standard deviations of a mean of 400.
    assert np.abs(visible - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_targets_are_the_hidden_patches_without_mean_and_deviation():
    method, batch = method_of(config()), batch_of()
    order = np.asarray(method.order(batch))
    found = np.asarray(method.targets({}, {}, {}, batch, CTX)[0])
    assert found.shape == (6, 12, 12)
    images = np.asarray(batch["views"]["main"][:, 0])
    for n in range(6):
        for i, number in enumerate(order[n, 4:]):
            row, column = divmod(int(number), 4)
            patch = images[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()
            expected = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(found[n, i], expected, rtol=1e-4, atol=1e-5)
    plain = method_of(config(method__normalize_pixels=False))
    pixels = plain.targets({}, {}, {}, batch, CTX)[0]
    hidden = np.take_along_axis(patches_of(images, 2), order[:, 4:, None], axis=1)
    np.testing.assert_array_equal(pixels, hidden)


def test_exact_predictions_cost_nothing_and_zeros_cost_the_chance_level():
    method, batch = method_of(config()), batch_of(rows=64)
    targets = method.targets({}, {}, {}, batch, CTX)[0]

    def loss(predicted):
        return float(method.objective({}, {}, predicted, {"targets": targets}, CTX)[0])

    assert loss(targets) == 0
    assert mae.ENTRY.chance_level(config()) == 11 / 12
    assert loss(jnp.zeros_like(targets)) == pytest.approx(11 / 12, rel=1e-4)


def test_no_gradient_reaches_the_pixels_of_hidden_patches_by_the_encoder():
    method, batch = method_of(config()), batch_of(rows=2)
    params, state = initialised(method, batch)
    order = np.asarray(method.order(batch))

    def first_prediction(images):
        given = {**batch, "views": {"main": images}}
        return jnp.sum(method.encode(params, state, {}, given, CTX)[0])

    gradient = jax.jit(jax.grad(first_prediction))(batch["views"]["main"])[:, 0]
    by_patch = np.abs(np.asarray(patches_of(gradient, 2))).max(axis=2)
    for n in range(2):
        assert (by_patch[n, order[n, :4]] > 0).all()
        assert (by_patch[n, order[n, 4:]] == 0).all()


def test_encoders_without_patches_and_decoders_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="hides patches, and encoder 'tiny' has none"):
        method_of(config(model__encoder="tiny", model__patch=16))
    with pytest.raises(UserError, match="decoder_hidden is 10; give a multiple of 4"):
        method_of(config(method__decoder_hidden=10))


@pytest.mark.parametrize("pool", ["token", slow("mean")])
def test_grey_images_and_both_poolings_are_encoded(pool):
    method, batch = method_of(config(model__pool=pool)), batch_of(channels=1)
    params, state = initialised(method, batch)
    predicted = jax.jit(lambda batch: method.encode(params, state, {}, batch, CTX)[0])(batch)
    assert predicted.shape == (6, 12, 4)


# ---------------------------------------------------------------------------------- the whole step


def trained(devices, *, micro_batch=0, backend="shard_map", steps=3):
    with jax.enable_x64(True):
        changed = config(train__micro_batch=micro_batch)
        return tiny.Run(changed, devices, backend).train(steps, np.float64)


one_device = functools.cache(functools.partial(trained, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "micro_batch", "backend"),
    [(4, 8, "shard_map"), (8, 0, "shard_map"), (2, 0, "pmap"), (1, 8, "shard_map")],
)
def test_training_does_not_depend_on_devices_or_micro_batches(devices, micro_batch, backend):
    results = trained(devices, micro_batch=micro_batch, backend=backend)
    found = run_differences(results, one_device())
    assert max(found.values()) < FLOAT64_BOUND, found


@pytest.mark.parametrize("encoder", ["vit_small", "vit_base", "vit_large"])
def test_a_step_costs_what_the_page_of_methods_says(encoder):
    page = (GOLDENS.parents[1] / "docs" / "methods.md").read_text()
    row = re.search(rf"\| `{encoder}` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page)
    changed = recipes.load("imagenet_vit_base_mae").replace({"model.encoder": encoder})
    given = DataShapes(ImageSpec(224, 3, (0.5,) * 3, (0.25,) * 3), "tfdata", None, "")
    cost = planner.cost_of(changed, 1, given)
    layers, _ = vit_layers(changed.model, 224, 3)
    whole = 3 * changed.train.batch_size * sum(layer.flops for layer in layers)
    shares = [flops / whole for flops in (cost.encoder_flops, cost.loss_flops, cost.flops)]
    assert [f"{share:.2f}" for share in shares] == list(row.groups())


def test_the_plan_counts_the_parameters_and_products_of_the_step():
    changed = config(model__pool="mean", train__batch_size=8)
    given = DataShapes(ImageSpec(8, 3, (0.5,) * 3, (0.25,) * 3), "tfdata", None, "")
    cost = planner.cost_of(changed, 1, given)
    method = method_of(changed)
    batch = {
        "views": {"main": jax.ShapeDtypeStruct((8, 1, 8, 8, 3), "float32")},
        "key": jax.ShapeDtypeStruct((8, 2), "uint32"),
    }
    params, state = jax.eval_shape(method.init, jax.random.key(0), {"views": batch["views"]})
    assert cost.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))

    def forward(params, state, batch):
        return method.encode(params, state, {}, batch, CTX)[0]

    counted = products(jax.make_jaxpr(forward)(params, state, batch).jaxpr)
    # A backward pass costs twice the forward pass, but for the gradient of the images.
    first = 2 * 12 * 24 * 16 * 8
    assert cost.flops == 3 * counted - first
