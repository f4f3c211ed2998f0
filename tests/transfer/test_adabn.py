"""Re-estimated BatchNorm statistics: exact in every layer, on any number of devices."""

import chex
import jax
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.evaluate.encoders.norm_statistics import reestimate_norm_statistics
from cssl_jax.models.normalization import BatchNorm
from cssl_jax.runtime import spmd
from helpers import tiny

SPEC = ImageSpec(size=8, channels=1, mean=(0.3,), std=(0.2,))
IMAGES = tiny.image_source(50, seed=4)  # 50 is not a multiple of the batch size 16


@pytest.fixture(scope="module")
def classifier():
    """(method, model) whose BatchNorm layers have random non-zero scales and statistics."""
    config = recipes.with_method(tiny.config(), "classifier")
    config = tiny.replace(config, "classifier", num_classes=3, head_layers=1)
    run = tiny.Run(config)
    model = jax.device_get(run.state()).model
    rng = np.random.default_rng(0)

    def randomize(path, leaf):
        if path[-1].key in ("scale", "mean", "var"):
            return np.float32(rng.uniform(0.5, 1.5, leaf.shape))
        return leaf

    return run.method, jax.tree_util.tree_map_with_path(randomize, model)


def reestimate_model(classifier, devices=1, batch_size=16):
    method, model = classifier
    mesh = spmd.make_mesh(jax.devices()[:devices])
    modules = {"encoder": method.encoder, "head": method.head}
    return reestimate_norm_statistics(
        modules, model, IMAGES, SPEC, mesh, batch_size=batch_size, seed=0
    )


def test_first_layer_statistics_over_several_batches_match_numpy(classifier):
    _, model = classifier
    x = (np.float64(IMAGES.images) / 255 - 0.3) / 0.2
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    kernel = np.float64(model["params"]["encoder"]["conv1"]["kernel"])
    maps = np.einsum("nhwcij,ijco->nhwo", windows, kernel)
    statistics = reestimate_model(classifier)["model_state"]["encoder"]["bn1"]
    scale = np.sqrt(maps.var(axis=(0, 1, 2)).max())
    np.testing.assert_allclose(statistics["mean"], maps.mean(axis=(0, 1, 2)), atol=1e-5 * scale)
    np.testing.assert_allclose(statistics["var"], maps.var(axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.slow
def test_with_one_batch_every_layer_normalises_to_mean_0_and_variance_1(classifier):
    method, _ = classifier
    model = reestimate_model(classifier, batch_size=64)
    x = np.float32((np.float64(IMAGES.images) / 255 - 0.3) / 0.2)
    layers = 0
    for name, module in (("encoder", method.encoder), ("head", method.head)):
        variables = {"params": model["params"][name], "batch_stats": model["model_state"][name]}
        x, captured = module.apply(
            variables,
            x,
            train=False,
            capture_intermediates=lambda layer, _: isinstance(layer, BatchNorm),
        )
        x = x["features"] if name == "encoder" else x
        for path, outputs in jax.tree_util.tree_leaves_with_path(captured["intermediates"]):
            layer = model["params"][name]
            for key in path[:-2]:  # the last two keys are "__call__" and the index in its tuple
                layer = layer[key.key]
            normal = (np.float64(outputs) - layer["bias"]) / layer["scale"]
            normal = normal.reshape(-1, normal.shape[-1])
            varies = normal.var(axis=0) > 1e-3  # false for dead channels
            assert varies.mean() > 0.5
            np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-3)
            assert np.median(normal.var(axis=0)[varies]) == pytest.approx(1, abs=0.01)
            layers += 1
    assert layers == 7  # stem, two blocks with two layers each, a shortcut, the head


def test_statistics_depend_on_neither_devices_nor_earlier_statistics(classifier):
    method, model = classifier
    one, eight = (reestimate_model(classifier, devices) for devices in (1, 8))
    chex.assert_trees_all_close(one, eight, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(one["params"], model["params"])
    other = jax.tree.map(lambda leaf: leaf * 2 + 1, model["model_state"])
    repeated = reestimate_model((method, {**model, "model_state": other}))
    chex.assert_trees_all_close(one, repeated, rtol=1e-4, atol=1e-5)
