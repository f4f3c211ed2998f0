"""Methods with a Vision Transformer: devices, micro-batches, frozen parameters, resume."""

import functools
import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import StoppedRunError
from cssl_jax.experiment import builders
from cssl_jax.methods.core import two_view_methods
from cssl_jax.runtime import spmd
from cssl_jax.train.hooks import Hook
from cssl_jax.train.pretrain import pretrain
from helpers import method_cases, tiny
from helpers.comparison import largest_difference, run_differences
from helpers.method_cases import MICRO_BATCH

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
SIDE = 32


def config(name="moco_v3", **values):
    """MoCo v3 as in its paper, small: frozen patches, drawn masks, AdamW that decays everything."""
    return method_cases.config(
        name,
        encoder="vit_micro",
        model__width=1 / 8,
        model__patch=8,
        model__heads=6,
        model__drop_path=0.2,
        model__freeze_patch_projection=True,
        model__positions="sincos_moco_v3",
        data__size=SIDE,
        optimizer__name="adamw",
        optimizer__learning_rate=1e-3,
        optimizer__weight_decay=0.1,
        **values,
    )


@functools.cache
def source():
    small = tiny.image_source(48)
    return type(small)(
        "images", np.kron(small.images, np.ones((1, 4, 4, 1), np.uint8)), small.labels
    )


@functools.cache
def trained(name, devices, *, micro_batch=0, backend="shard_map", dropout=0.1):
    """(losses, state) in float64; BatchNorm groups of the heads are as large as micro-batches."""
    group = 0 if micro_batch else MICRO_BATCH
    values = {
        "train__micro_batch": micro_batch,
        "model__norm_group": group,
        "model__dropout": dropout,
    }
    with jax.enable_x64(True):
        run = tiny.Run(config(name, **values), devices, backend, source=source())
        return run.train(3, np.float64)


def differences(name, results):
    return run_differences(results, trained(name, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "micro_batch", "backend"),
    [
        ("moco_v3", 2, MICRO_BATCH, "shard_map"),
        ("moco_v3", 2, MICRO_BATCH, "pmap"),
        ("moco_v3", 8, 0, "shard_map"),
        ("byol", 4, MICRO_BATCH, "shard_map"),
        ("barlow_twins", 8, 0, "shard_map"),
        ("swav", 4, 0, "shard_map"),
    ],
)
def test_training_does_not_depend_on_devices_or_micro_batches(name, devices, micro_batch, backend):
    found = differences(name, trained(name, devices, micro_batch=micro_batch, backend=backend))
    assert max(found.values()) < FLOAT64_BOUND, found


@pytest.mark.slow
def test_masks_of_positions_on_a_device_are_caught(monkeypatch):
    """Keys that count the rows of a device would depend on the number of devices."""

    def local_keys(batch, views, first=0):
        numbers = jax.numpy.arange(len(batch["index"]) * views, dtype=jax.numpy.uint32)
        return jax.numpy.stack([numbers, numbers], axis=1)

    monkeypatch.setattr(two_view_methods, "mask_keys", local_keys)
    # At another rate, so that no step is shared with the other tests.
    results = [trained("moco_v3", devices, dropout=0.15) for devices in (1, 4)]
    assert largest_difference(results[0][0], results[1][0]) > 1e3 * FLOAT64_BOUND


@pytest.mark.slow
def test_a_frozen_patch_projection_stays_and_so_does_its_copy():
    _, state = trained("moco_v3", 1)
    with jax.enable_x64(True):
        first = jax.device_get(tiny.Run(config(), 1, source=source()).state(np.float64))
    for params in (state.params, state.method_state["params"]):
        patch, start = params["encoder"]["patch"], first.params["encoder"]["patch"]
        jax.tree.map(np.testing.assert_array_equal, patch, start)
    for name in ("block1", "class_token", "norm"):
        moved = largest_difference(state.params["encoder"][name], first.params["encoder"][name])
        assert moved > 1e-6, name


def updates_of(gradient, **values):
    """Largest update of each module of the encoder, from gradients of one value, at step 0."""
    run = tiny.replace(config(), "optimizer", learning_rate=1.0, scaling="none", **values)
    run = tiny.replace(run, "optimizer", warmup_epochs=0.0, momentum=0.0)
    run = tiny.replace(run, "model", positions="learned")
    method = builders.make_method(run, spmd.make_mesh(jax.devices()[:1]))
    images = jax.ShapeDtypeStruct((2, 2, SIDE, SIDE, 1), np.float32)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"views": {"main": images}})
    optimizer, _, _ = builders.make_optimizer(run, Sampler(48, 16, 0), method)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    gradients = jax.tree.map(lambda leaf: np.full(leaf.shape, gradient, np.float32), shapes)

    def update(gradients, params):
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    found = jax.device_get(jax.jit(update)(gradients, params))["encoder"]
    return {
        f"{name}/{path[-1].key}" if path else name: float(np.abs(leaf).max())
        for name, module in found.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(module)
    }


def test_layers_have_the_learning_rates_of_their_depth_and_frozen_ones_none():
    found = updates_of(1.0, name="sgd", layer_decay=0.5, weight_decay=0.0)
    expected = {
        "patch": 0.0,
        "class_token": 0.25,
        "positions": 0.25,
        "block1": 0.5,
        "block2": 1.0,
        "norm": 1.0,
    }
    assert found == {path: expected[path.partition("/")[0]] for path in found}


@pytest.mark.parametrize("exclude", [True, False])
def test_weight_decay_excludes_norms_biases_and_tokens_on_request(exclude):
    found = updates_of(
        0.0, name="adamw", weight_decay=0.1, exclude_norm_and_bias=exclude, layer_decay=1.0
    )
    for path, change in found.items():
        module, _, leaf = path.partition("/")
        decayed = module != "patch" and (leaf == "kernel" or not exclude)
        assert change == pytest.approx(0.1 * decayed), path


class StopAtEpochTwo(Hook):
    def after_save(self, run, scores):
        if run.epoch == 2:
            raise StoppedRunError("stop")


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits_and_is_used(tmp_path):
    np.savez(tmp_path / "images.npz", images=source().images, labels=source().labels)
    run = config(
        data__source=str(tmp_path / "images.npz"),
        data__validation_fraction=0.25,
        train__epochs=3,
        train__checkpoint_every=1,
        train__tensorboard=False,
        evaluate__knn_k=5,
        evaluate__knn_ks=(1, 5),
        evaluate__batch_size=16,
        evaluate__probe_seeds=1,
        evaluate__l2_values=(0.1,),
        evaluate__online_l2_values=(0.1,),
    )
    pretrain(run, tmp_path / "whole")
    with pytest.raises(StoppedRunError):
        pretrain(run, tmp_path / "stopped", hooks=[StopAtEpochTwo()])
    pretrain(run, tmp_path / "stopped")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    encoder = cssl_jax.load_encoder(tmp_path / "whole")
    found = encoder(source().images[:4], layers=(1, 2))
    assert {name: x.shape for name, x in found.items()} == {
        "features": (4, 24),
        "stage1": (4, 4, 4, 24),
        "stage2": (4, 4, 4, 24),
    }
    exported = cssl_jax.export_run(tmp_path / "whole", tmp_path / "hlo", format="stablehlo")
    assert exported.difference < 1e-5
    tuned = cssl_jax.finetune_config(tmp_path / "whole").replace(
        {"classifier.stages": 1, "classifier.layer_decay": 0.5, "train.epochs": 1}
    )
    results = cssl_jax.finetune(tmp_path / "whole", tmp_path / "tuned", config=tuned, min_steps=0)
    assert 0 <= results.fractions["1"].pretrained.top1 <= 1
    start = encoder.model["params"]["encoder"]
    after = cssl_jax.load_encoder(tmp_path / "tuned" / "1-pretrained").model["params"]["encoder"]
    for name in ("patch", "class_token", "block1"):
        jax.tree.map(np.testing.assert_array_equal, start[name], after[name])
    assert largest_difference(jax.device_get(after["block2"]), jax.device_get(start["block2"])) > 0
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model"]["heads"] == 6
