"""Runs of a method with state from a user's file: resumed, in two processes, evaluated."""

import json
import pathlib

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.errors import StoppedRunError
from cssl_jax.train.hooks import Hook
from cssl_jax.train.pretrain import pretrain
from helpers import momentum_queue, multiprocess, tiny

pytestmark = pytest.mark.slow
FILE = pathlib.Path(momentum_queue.__file__)
BOUND = 1e-4  # sums in another order, which 12 steps of Adam enlarge


@pytest.fixture(scope="module", autouse=True)
def trusted():
    with cssl_jax.trusting_code():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    source = tiny.image_source(60)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    small = tiny.config(epochs=4, checkpoint_every=0, checkpoint_steps=4, evaluate_every=2)
    return small.replace(
        {
            "data.source": str(path),
            "method.name": f"{FILE}:QUEUE",
            "model.encoder": "linear",  # most of a start is tracing
            "augment.jitter": (0.0,),
            "augment.blur": (0.0,),
            "augment.solarize": (0.0,),
            "train.tensorboard": False,
            "evaluate.knn_k": 5,
            "evaluate.batch_size": 16,
            "evaluate.probe_seeds": 1,
            "evaluate.draws": 2,
            "evaluate.l2_values": (0.1,),
            "evaluate.online_l2_values": (0.1,),
        }
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(config, run)
    return run


class StopAtEpochTwo(Hook):
    def after_save(self, run, scores):
        if run.epoch == 2:
            raise StoppedRunError("stop")


def test_a_run_that_was_stopped_ends_with_the_same_bits(config, whole, tmp_path):
    with pytest.raises(StoppedRunError):
        pretrain(config, tmp_path, hooks=[StopAtEpochTwo()])
    pretrain(config, tmp_path)
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_the_evaluated_weights_are_those_of_the_momentum_copy(whole):
    encoder = cssl_jax.load_encoder(whole)
    with Checkpoints(whole, read_only=True) as checkpoints:
        rest = checkpoints._manager.restore(encoder.step).train
    evaluated = jax.device_get(encoder.model["params"]["encoder"])
    assert jax.tree.structure(evaluated) == jax.tree.structure(rest["params"]["encoder"])
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), evaluated, rest["params"]["encoder"])
    assert max(jax.tree.leaves(apart)) > 1e-4
    assert set(rest["method_state"]) == {"queue", "pointer", "centre"}
    results = json.loads((whole / "results.json").read_text())
    assert results["linear"]["top1"] > 1 / 3


def test_a_run_from_these_weights_starts_its_copy_from_them(config, whole, tmp_path):
    donor = jax.device_get(cssl_jax.load_encoder(whole).model["params"]["encoder"])
    # At a learning rate of 0 the copy, which is what is loaded, stays where it started.
    still = config.replace({"train.init": str(whole), "optimizer.learning_rate": 0.0})
    pretrain(still.replace({"train.epochs": 1}), tmp_path)
    copy = jax.device_get(cssl_jax.load_encoder(tmp_path).model["params"]["encoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), donor, copy)


def test_two_processes_compute_what_two_devices_of_one_do(config, whole, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(recipes.to_json(config))
    words = ["pretrain", str(recipe), "--workdir", str(tmp_path / "run"), "--trust-code"]
    ends = multiprocess.run(multiprocess.CLI, words, 2)
    assert [end.status for end in ends] == [0, 0], ends
    runs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "run", whole)
    ]
    for ours, theirs in zip(*runs, strict=True):
        assert ours.keys() == theirs.keys()
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=BOUND)
    models = [jax.device_get(cssl_jax.load_encoder(run).model) for run in (tmp_path / "run", whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=BOUND), *models)
