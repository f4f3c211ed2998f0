"""Untrained baseline: the run's initial weights, active branches, statistics of real images."""

import jax
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.untrained import untrained_model
from cssl_jax.experiment import train_state
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.runtime import spmd
from cssl_jax.train.initial_state import first_state
from helpers import tiny
from tests.helpers.marks import slow

SPEC = ImageSpec(size=8, channels=1, mean=(0.3,), std=(0.2,))
IMAGES = tiny.image_source(50, seed=4)


def baseline(run, devices=1):
    mesh = spmd.make_mesh(jax.devices()[:devices])
    model = untrained_model(IMAGES, method=run.method, spec=SPEC, mesh=mesh, seed=0, batch_size=16)
    return jax.device_get(model)


@pytest.fixture(scope="module")
def run():
    return tiny.Run(tiny.config())


@pytest.fixture(scope="module")
def model(run):
    return baseline(run)


def leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_weights_are_those_of_the_runs_first_state_but_for_the_scales_that_start_at_zero(
    run, model
):
    started = leaves(jax.device_get(run.first_state.params["encoder"]))
    mine = leaves(model["params"]["encoder"])
    assert mine.keys() == started.keys()
    changed = {name for name in mine if not np.array_equal(mine[name], started[name])}
    assert changed == {"layer1_0/bn2/scale", "layer2_0/bn2/scale"}
    for name in changed:
        assert not started[name].any()
        assert (mine[name] == 1).all()


def test_every_residual_branch_changes_the_features(run, model):
    x = np.float32((IMAGES.images / 255 - 0.3) / 0.2)
    variables = encoder_variables(model)
    features = run.method.encoder.apply(variables, x)["features"]
    for block in ("layer1_0", "layer2_0"):
        params = jax.tree.map(np.copy, variables["params"])
        params[block]["bn2"]["scale"][:] = 0
        without = run.method.encoder.apply({**variables, "params": params}, x)["features"]
        assert np.abs(without - features).max() > 0.05 * np.abs(features).max()


def test_no_layer_has_the_statistics_of_no_image(model):
    for name, value in leaves(model["model_state"]["encoder"]).items():
        empty = 0.0 if name.endswith("mean") else 1.0
        assert np.abs(value - empty).max() > 1e-3, name


def test_devices_do_not_change_it(run, model):
    expected, found = leaves(model), leaves(baseline(run, devices=2))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_seed_decides(run, model):
    mesh = spmd.make_mesh(jax.devices()[:1])
    other = untrained_model(IMAGES, method=run.method, spec=SPEC, mesh=mesh, seed=1, batch_size=16)
    kernels = [m["params"]["encoder"]["conv1"]["kernel"] for m in (model, jax.device_get(other))]
    assert not np.array_equal(*kernels)
    state = train_state.init_state(run.method, run.optimizer, SPEC, 1)
    np.testing.assert_array_equal(kernels[1], state.params["encoder"]["conv1"]["kernel"])


@pytest.mark.parametrize(("stages", "expected"), [(0, 1.0), slow("all", 0.0)])
def test_a_classifier_that_freezes_its_random_encoder_starts_from_the_baseline(stages, expected):
    config = recipes.with_method(tiny.config(), "classifier")
    config = tiny.replace(config, "classifier", num_classes=10, stages=stages)
    config = tiny.replace(config, "runtime", devices=1)
    state, origin = first_state(Experiment.from_config(config))
    assert origin == {}
    block = jax.device_get(state.params["encoder"]["layer2_0"])
    assert (block["bn2"]["scale"] == expected).all()
    empty = np.all(jax.device_get(state.model_state["encoder"]["bn1"]["mean"]) == 0)
    assert empty == (stages == "all")
