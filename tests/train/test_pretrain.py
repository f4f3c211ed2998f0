import json
import math
import pathlib
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.data.pipeline.array_pipelines import StreamPipeline
from cssl_jax.errors import RunError, UserError
from cssl_jax.runtime import spmd
from cssl_jax.train import compiled_step
from cssl_jax.train.logging import writers as metrics
from helpers import tiny
from helpers.stops import AfterStep, CrashError, crash_after
from tests.helpers.marks import slow

EPOCHS, STEPS_PER_EPOCH = 3, 3


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    source = tiny.image_source(60)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return str(path)


def make_config(arrays, **data):
    config = tiny.config(epochs=EPOCHS, checkpoint_every=1, evaluate_every=2)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    return tiny.replace(config, "data", source=arrays, **data)


@pytest.fixture(scope="module")
def config(arrays):
    return make_config(arrays)


@pytest.fixture(scope="module")
def compiled():
    """What ``spmd.data_parallel`` returned in the run that was never interrupted."""
    return []


@pytest.fixture(scope="module")
def run(config, compiled, tmp_path_factory):
    """A run that was never interrupted."""
    folder, make = tmp_path_factory.mktemp("runs") / "whole", spmd.data_parallel

    def remember(*arguments, **options):
        compiled.append(make(*arguments, **options))
        return compiled[-1]

    compiled_step._compiled.cache_clear()  # other files may have left the same step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spmd, "data_parallel", remember)
        results = cssl_jax.pretrain(config, folder)
    return folder, results


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_model(folder):
    encoder = cssl_jax.load_encoder(folder)
    assert encoder.step == EPOCHS * STEPS_PER_EPOCH
    return jax.device_get(encoder.model)


def assert_same_run(folder, reference):
    assert (folder / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, last_model(folder), last_model(reference))
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, reference))
    assert ours == theirs


def test_results_hold_every_metric_beside_its_baselines(run, config):
    folder, results = run
    assert json.loads((folder / "results.json").read_text()) == results
    for row in (results, results["random_init"], results["pixels"]):
        for protocol in ("linear", "knn"):
            assert 0.0 <= row[protocol]["top1"] <= row[protocol]["top5"] <= 1.0
    assert results["split"] == {"train": 48, "validation": 12}
    assert results["seed"] == 0
    assert results["step"] == 9
    assert results["config_hash"] == cssl_jax.recipes.config_hash(config)
    assert results["random_init"]["description"].endswith(
        "BatchNorm statistics of 48 training images"
    )


def test_metrics_hold_loss_chance_accuracy_norm_and_rate_of_every_step(run):
    folder, _ = run
    steps = [line for line in lines(folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    for line in steps:
        assert line["chance_level"] == math.log(2 * 16 - 1)
        assert 0.0 <= line["contrastive_accuracy"] <= 1.0
        assert 0.0 < line["contrastive_entropy"] <= line["chance_level"]
        assert line["gradient_norm"] > 0.0
        assert line["epoch"] == line["step"] / 3
    rates = [line["learning_rate"] for line in steps]
    assert rates[0] == pytest.approx(2e-3)  # no warm-up
    assert rates == sorted(rates, reverse=True)
    online = [line for line in lines(folder / "metrics.jsonl") if "knn.top1" in line]
    assert [line["step"] for line in online] == [6, 9]
    assert online[1]["linear.top1"] == run[1]["linear"]["top1"]


def test_timings_are_apart_and_tensorboard_reads_the_events(run):
    folder, _ = run
    timings = lines(folder / "timings.jsonl")
    assert {"images_per_second", "input_wait", "seconds"} <= set(timings[0])
    assert "images_per_second" not in (folder / "metrics.jsonl").read_text()

    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = (folder / "tensorboard").iterdir()
    events = [
        (event.step, value.tag, value.tensor.float_val[0])
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    losses = {step: value for step, tag, value in events if tag == "loss"}
    expected = {
        line["step"]: np.float32(line["loss"])
        for line in lines(folder / "metrics.jsonl")
        if "loss" in line
    }
    assert losses == expected


@pytest.mark.parametrize("step", [slow(2), 4, slow(8)])
def test_a_run_that_crashed_ends_with_the_same_bits(config, run, tmp_path, step):
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(step)])
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", run[0])


def test_a_signal_saves_and_the_next_start_resumes(config, run, tmp_path):
    interrupt = AfterStep(5, lambda run: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunError, match="SIGTERM at step 5 of 9: saved"):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[interrupt])
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.latest == 5
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", run[0])


@pytest.mark.slow
def test_a_run_that_waits_for_input_says_so_and_what_to_change(
    arrays, tmp_path, monkeypatch, capfd
):
    # Nine steps are few: check each alone, since some find their input made while XLA compiled.
    monkeypatch.setattr(metrics.InputWatch, "seconds", 0.0)
    host_batches = StreamPipeline.host_batches

    def slow(self, start, stop):
        for host_batch in host_batches(self, start, stop):
            time.sleep(0.8)
            yield host_batch

    monkeypatch.setattr(StreamPipeline, "host_batches", slow)
    config = make_config(arrays, resident=False)
    # Compiling, saving and evaluating give the input time to catch up: few of them, and long waits.
    config = tiny.replace(config, "train", checkpoint_every=0, evaluate_every=0)
    cssl_jax.pretrain(config, tmp_path / "run")
    err = capfd.readouterr().err
    found = re.findall(r"waiting for input (\d+) % of the time: (.*)", err)
    assert int(found[0][0]) > 10  # how often it says so is InputWatch's own test
    assert "--data.resident True" in found[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "placement",
    [
        {"resident": False},
        {"augment_on": "host", "engine": "tf"},
        {"augment_on": "split", "engine": "threads"},
        {"augment_on": "split", "engine": "tf"},
        {"augment_on": "host", "engine": "threads"},
    ],
)
def test_resume_is_exact_wherever_the_input_is_computed(arrays, tmp_path, placement):
    if placement.get("engine") == "tf":
        pytest.importorskip("tensorflow")
    config = tiny.replace(make_config(arrays, **placement), "train", record_views=True)
    cssl_jax.pretrain(config, tmp_path / "whole")
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(5)])
    cssl_jax.pretrain(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    for path in (tmp_path / "whole" / "views").iterdir():
        with np.load(path) as theirs, np.load(tmp_path / "run" / "views" / path.name) as ours:
            assert ours.files == theirs.files
            for name in theirs.files:
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_step_is_compiled_once_in_a_whole_run(run, compiled):
    (step,) = compiled
    assert step._cache_size() == 1


@pytest.mark.slow
def test_what_is_logged_does_not_depend_on_where_a_run_was_stopped(config, tmp_path):
    sparse = tiny.replace(config, "train", log_every=4)
    cssl_jax.pretrain(sparse, tmp_path / "whole")
    assert [
        line["step"] for line in lines(tmp_path / "whole" / "metrics.jsonl") if "loss" in line
    ] == [1, 4, 8, 9]
    with pytest.raises(CrashError):
        cssl_jax.pretrain(sparse, tmp_path / "run", hooks=[crash_after(5)])
    cssl_jax.pretrain(sparse, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(config, run):
    folder, results = run
    before = (folder / "metrics.jsonl").read_bytes()
    assert cssl_jax.pretrain(config, folder) == results
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"devices": 4}, {"devices": 2, "backend": "pmap"}])
def test_a_run_resumes_on_other_devices(config, run, tmp_path, options):
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(4)])
    moved = tiny.replace(config, "runtime", **options)
    cssl_jax.pretrain(moved, tmp_path / "run")
    ours = [line["loss"] for line in lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    theirs = [line["loss"] for line in lines(run[0] / "metrics.jsonl") if "loss" in line]
    # Six float32 steps of AdamW on sums in another order; a lost or repeated batch gives 1e-1.
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_data_that_changed_under_a_run_are_refused(config, run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    path, source = pathlib.Path(config.data.source), tiny.image_source(60)
    kept = path.read_bytes()
    try:
        np.savez(path, images=255 - source.images, labels=source.labels)
        with pytest.raises(UserError, match="train images have changed since the run began"):
            cssl_jax.pretrain(config, tmp_path / "run")
    finally:
        path.write_bytes(kept)
    assert cssl_jax.pretrain(config, tmp_path / "run") == run[1]


def test_what_determines_no_result_may_change(config, run):
    calmer = tiny.replace(config, "train", checkpoint_every=2, keep=5)
    assert cssl_jax.pretrain(calmer, run[0]) == run[1]


@pytest.mark.slow
def test_a_folder_in_which_nothing_was_saved_takes_a_corrected_config(config, tmp_path):
    wrong = tiny.replace(config, "augment", blur_kernel=30.0)  # found out by the first step only
    with pytest.raises(UserError, match=r"augment\.blur"):
        cssl_jax.pretrain(wrong, tmp_path / "run")
    cssl_jax.pretrain(tiny.replace(config, "train", epochs=1), tmp_path / "run")


def test_the_best_checkpoint_can_be_opened(config, run):
    folder, _ = run
    online = {
        line["step"]: line["knn.selection_top1"]
        for line in lines(folder / "metrics.jsonl")
        if "knn.top1" in line
    }
    best = cssl_jax.load_encoder(folder, checkpoint="best")
    assert online[best.step] == max(online.values())
    with pytest.raises(UserError, match="use 'last' or 'best'"):
        cssl_jax.load_encoder(folder, checkpoint="newest")


def test_another_config_is_refused_with_what_differs(config, run):
    other = tiny.replace(config, "method", temperature=0.7)
    with pytest.raises(UserError, match=r"method\.temperature: 0\.2 -> 0\.7"):
        cssl_jax.pretrain(other, run[0])


def test_a_folder_of_other_things_is_refused(config, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        cssl_jax.pretrain(config, tmp_path)
    with pytest.raises(UserError, match=r"thesis\.txt is a file"):
        cssl_jax.pretrain(config, tmp_path / "thesis.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def still(config, run):
    """A run of one epoch that starts from another's weights and learns nothing."""
    frozen = tiny.replace(config, "optimizer", learning_rate=0.0, weight_decay=0.0)
    return tiny.replace(frozen, "train", init=str(run[0]), epochs=1)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another_and_says_so(still, run, tmp_path, capfd):
    results = cssl_jax.pretrain(still, tmp_path / "next")
    encoder = cssl_jax.load_encoder(tmp_path / "next")
    ours, theirs = jax.device_get(encoder.model["params"]), last_model(run[0])["params"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    origin = {
        "run": str(run[0]),
        "step": 9,
        "encoder_hash": run[1]["encoder_hash"]["last"],
        "modules": ["encoder", "projector"],
    }
    assert results["init"] == encoder.meta["init"] == origin
    said = capfd.readouterr().err
    assert "encoder and projector of" in said
    assert "after the process was started" not in said  # the process has done other things before
    assert encoder.step == 3  # steps, and with them the optimizer, start from scratch
    assert "init" not in run[1]


@pytest.mark.slow
def test_where_a_run_began_is_known_to_one_that_resumes(still, run, tmp_path):
    copied = tmp_path / "first"
    shutil.copytree(run[0], copied)
    config = tiny.replace(still, "train", init=str(copied), epochs=2)
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "next", hooks=[crash_after(5)])
    shutil.rmtree(copied)  # what has begun needs it no more
    results = cssl_jax.pretrain(config, tmp_path / "next")
    assert results["init"]["encoder_hash"] == run[1]["encoder_hash"]["last"]


@pytest.mark.slow
def test_a_projector_of_another_shape_is_left_behind(still, run, tmp_path):
    narrow = tiny.replace(still, "model", projector_dim=8)
    results = cssl_jax.pretrain(narrow, tmp_path / "next")
    assert results["init"]["modules"] == ["encoder"]
    ours = jax.device_get(cssl_jax.load_encoder(tmp_path / "next").model["params"])
    theirs = last_model(run[0])["params"]
    jax.tree.map(np.testing.assert_array_equal, ours["encoder"], theirs["encoder"])
    frozen = tiny.replace(narrow, "train", micro_batch=16, micro_batch_norm="frozen")
    with pytest.raises(UserError, match=r"give the model\.projector_\* fields"):
        cssl_jax.pretrain(frozen, tmp_path / "frozen")


def test_weights_of_another_encoder_are_refused_by_name(still, tmp_path):
    wider = tiny.replace(still, "model", width=0.25)
    with pytest.raises(
        UserError, match=r"model\.width is 0\.25, but 0\.125 in train\.init .*/whole"
    ):
        cssl_jax.pretrain(wider, tmp_path / "next")
    rgb = tiny.image_source(60, channels=3)
    np.savez(tmp_path / "rgb.npz", images=rgb.images, labels=rgb.labels)
    coloured = tiny.replace(still, "data", source=str(tmp_path / "rgb.npz"))
    with pytest.raises(
        UserError, match=r"train\.init .*: images have 3 channels; this encoder takes 1"
    ):
        cssl_jax.pretrain(coloured, tmp_path / "next")


@pytest.mark.parametrize("log_every", [1, slow(100)])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(config, tmp_path, log_every):
    wild = tiny.replace(config, "optimizer", name="sgd", learning_rate=1e30, nesterov=False)
    wild = tiny.replace(wild, "train", log_every=log_every)
    wild = tiny.replace(wild, "model", projector_norm=False)
    with pytest.raises(RunError, match=r"(loss|gradient_norm) is (nan|inf) at step \d+"):
        cssl_jax.pretrain(wild, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
def test_without_labels_the_metrics_need_none(config, arrays, tmp_path):
    path = tmp_path / "bare.npz"
    np.savez(path, images=tiny.image_source(60).images)
    bare = tiny.replace(config, "data", source=str(path))
    results = cssl_jax.pretrain(bare, tmp_path / "run")
    for row in (results, results["random_init"], results["pixels"]):
        assert 0.0 <= row["view_retrieval"] <= 1.0
        assert row["alignment"] >= 0.0
        assert row["uniformity"] <= 0.0
        assert row["rankme"] >= 1.0
    online = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "rankme" in line]
    assert [line["step"] for line in online] == [6, 9]


def test_the_encoder_takes_images_of_any_size_and_gives_float32(run):
    encoder = cssl_jax.load_encoder(run[0], batch_size=8)
    images = tiny.image_source(11).images
    features = encoder(images)
    assert features.shape == (11, 16)
    assert features.dtype == np.float32
    # The tail is padded, not dropped, and does not depend on its neighbours.
    np.testing.assert_allclose(encoder(images[8:]), features[8:], rtol=1e-5, atol=1e-6)
    assert encoder(np.zeros((2, 20, 31, 1), np.uint8)).shape == (2, 16)
    with pytest.raises(UserError, match="images have 3 channels; this encoder takes 1"):
        encoder(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="give uint8"):
        encoder(np.zeros((2, 8, 8, 1), np.float32))


def test_evaluating_a_run_again_gives_its_results(run):
    folder, results = run
    metrics = cssl_jax.evaluate_run(folder, "knn")
    assert metrics["knn"] == results["knn"]
    assert metrics["random_init"]["knn"] == results["random_init"]["knn"]
    assert json.loads((folder / "results.json").read_text()) == results
    with pytest.raises(UserError, match="'svm' is unknown; use knn or linear or"):
        cssl_jax.evaluate_run(folder, "svm")


def test_every_replica_of_a_restored_state_is_equal(run):
    spmd.assert_replicated(cssl_jax.load_encoder(run[0]).model)


def crashed(config, place):
    """A run that ended after its first checkpoint."""
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, place, hooks=[crash_after(5)])


@pytest.mark.slow
def test_a_run_resumes_where_its_data_lie_now(config, run, arrays, tmp_path):
    crashed(config, tmp_path / "run")
    moved = shutil.copy(arrays, tmp_path / "elsewhere.npz")
    there = tiny.replace(config, "data", source=str(moved), max_rejected=0.5)
    cssl_jax.pretrain(there, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (
        run[0] / "metrics.jsonl"
    ).read_bytes()
    assert recipes.read_json(tmp_path / "run" / "config.json").data.source == str(moved)


def test_a_run_whose_data_are_others_is_refused_and_keeps_its_config(config, arrays, tmp_path):
    crashed(config, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = tiny.image_source(60, seed=1)
    np.savez(tmp_path / "other.npz", images=other.images, labels=other.labels)
    changed = tiny.replace(config, "data", source=str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="the train images have changed since the run began"):
        cssl_jax.pretrain(changed, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.slow
def test_how_the_same_numbers_are_computed_and_logged_may_change_on_resume(config, run, tmp_path):
    crashed(config, tmp_path / "run")
    other = tiny.replace(config, "train", log_every=2, keep=1)
    other = tiny.replace(other, "data", engine="threads", resident=False)
    other = tiny.replace(other, "evaluate", batch_size=24)
    cssl_jax.pretrain(other, tmp_path / "run")
    # Images that come from the host are another program: four steps of float32, rounded otherwise.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-4),
        last_model(tmp_path / "run"),
        last_model(run[0]),
    )
