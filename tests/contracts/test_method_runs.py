"""Whole runs of every self-supervised method: stopped within an epoch, and in two processes."""

import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.errors import StoppedRunError
from cssl_jax.train.hooks import Hook
from cssl_jax.train.pretrain import pretrain
from helpers import method_cases, multiprocess, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
METHODS = (*method_cases.CASES, "mae")
BOUND = 1e-4  # sums in another order, which 12 steps of Adam enlarge


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    source = tiny.image_source(60)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return path


def make_config(name, images):
    case = method_cases.CASES.get(name)
    queue = {"method__queue": 200} if case and case.queues else {}
    # 12 steps of 16 rows: the queue is not full when the run is stopped after 8 of them.
    return method_cases.config(
        name,
        augment__jitter=(0.0,),
        data__source=str(images),
        train__epochs=4,
        train__checkpoint_every=0,
        train__checkpoint_steps=4,
        train__evaluate_every=2,
        train__tensorboard=False,
        evaluate__knn_k=5,
        evaluate__knn_ks=(1, 5),
        evaluate__batch_size=16,
        evaluate__probe_seeds=1,
        evaluate__draws=2,
        evaluate__l2_values=(0.1,),
        evaluate__online_l2_values=(0.1,),
        **queue,
    )


@pytest.fixture(scope="module", params=METHODS)
def config(request, images):
    return make_config(request.param, images)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(config, run)
    return run


@pytest.fixture(scope="module")
def runs_of_two_processes(images, tmp_path_factory):
    """Folder with the run of every method, all by the same two processes."""
    root, calls = tmp_path_factory.mktemp("two"), []
    for name in METHODS:
        recipe = root / f"{name}.json"
        recipe.write_text(recipes.to_json(make_config(name, images)))
        calls.append(["pretrain", str(recipe), "--workdir", str(root / name)])
    (root / "calls.json").write_text(json.dumps(calls))
    children = multiprocess.start(multiprocess.CLI_SEVERAL, [str(root / "calls.json")], 2)
    ends = multiprocess.ends(children, timeout=1000)
    assert [end.status for end in ends] == [0, 0], ends
    return root


class StopWithinEpoch(Hook):
    def after_save(self, run, scores):
        if run.step == 8:
            raise StoppedRunError("stop")


def test_a_run_that_was_stopped_within_an_epoch_ends_with_the_same_bits(config, whole, tmp_path):
    with pytest.raises(StoppedRunError):
        pretrain(config, tmp_path, hooks=[StopWithinEpoch()])
    pretrain(config, tmp_path)
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_compute_what_two_devices_of_one_do(config, whole, runs_of_two_processes):
    run = runs_of_two_processes / config.method.name
    runs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, whole)
    ]
    # A neighbour that is nearest by a rounding error only changes the loss by more than rounding.
    last = 3 if config.method.name == "nnclr" else 12
    for ours, theirs in zip(*runs, strict=True):
        assert ours.keys() == theirs.keys()
        if "loss" in ours and ours["step"] <= last:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=BOUND, abs=BOUND)
    if last == 12:
        models = [jax.device_get(cssl_jax.load_encoder(folder).model) for folder in (run, whole)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=BOUND), *models)
