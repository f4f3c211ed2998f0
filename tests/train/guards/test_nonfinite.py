"""Non-finite steps, provoked by one poisoned image among normal ones.

The normal images contain 0 and 1, the poisoned one 255. With the chosen data.std, the squares of
normal activations fit float32 and those of the poisoned image do not. The BatchNorm variance of its
group of two images is then the difference of two infinities.
"""

import json
import re

import chex
import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import RunError
from cssl_jax.optim.norms import parameter_groups
from cssl_jax.optim.step_counter import is_schedule
from cssl_jax.runtime import spmd
from cssl_jax.train import compiled_step
from helpers import tiny
from helpers.stops import CrashError, crash_after

POISONED, EPOCHS, STEPS_PER_EPOCH, BATCH = 5, 3, 3, 16


def binary(seed, size):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 3
    chance = 0.2 + 0.3 * labels[:, None, None, None]
    return (rng.random((size, 8, 8, 1)) < chance).astype(np.uint8), labels


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Builds configs over the same images, one of which is poisoned."""
    folder = tmp_path_factory.mktemp("poison")
    images, labels = binary(0, STEPS_PER_EPOCH * BATCH)
    images[POISONED] = 255
    np.savez(folder / "train.npz", images=images, labels=labels)
    images, labels = binary(1, 12)
    np.savez(folder / "validation.npz", images=images, labels=labels)

    def make(**train):
        config = tiny.config(epochs=EPOCHS, evaluate_every=0, **{"checkpoint_every": 1, **train})
        config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
        config = tiny.replace(config, "optimizer", schedule="constant", weight_decay=0.0)
        config = tiny.replace(config, "model", norm_group=2)
        # No augmentation that changes pixel values.
        off = dict.fromkeys(("crop", "affine", "jitter", "blur", "solarize"), (0.0,))
        config = tiny.replace(config, "augment", **{**off, "affine": (1.0,)})
        return tiny.replace(
            config,
            "data",
            source=str(folder / "train.npz"),
            validation_source=str(folder / "validation.npz"),
            mean=(0.0,),
            std=(8e-21,),
        )

    return make


def bad_steps():
    """Steps, from 1, whose batch contains the poisoned image: one per epoch."""
    sampler = Sampler(STEPS_PER_EPOCH * BATCH, BATCH, 0)
    steps = []
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        index, _ = sampler.draw(step, np.arange(BATCH))
        steps += [step + 1] if POISONED in index else []
    assert len(steps) == EPOCHS
    return steps


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def test_a_non_finite_update_changes_only_the_counters(make):
    run = tiny.Run(make(), source=cssl_jax.experiment.data_splits.load_data(make())[0])
    step = run.train_step()
    state, row = run.state(), 0
    for done, host_batch in enumerate(run.host_batches(0, 6), 1):
        before = jax.device_get(state)
        state, metrics = step(state, run.constants, host_batch)
        after, is_bad = jax.device_get(state), done in bad_steps()
        row = row + 1 if is_bad else 0
        assert bool(metrics["finite"]) == (not is_bad)
        assert after.step == done
        assert after.skipped.tolist() == [sum(b <= done for b in bad_steps()), row]
        for node in jax.tree.leaves(after.opt_state, is_leaf=is_schedule):
            assert not is_schedule(node) or node.count == done  # schedules count all steps
        if is_bad:
            moments = [
                [x for x in jax.tree.leaves(s.opt_state, is_leaf=is_schedule) if not is_schedule(x)]
                for s in (before, after)
            ]
            jax.tree.map(np.testing.assert_array_equal, before.model, after.model)
            jax.tree.map(np.testing.assert_array_equal, *moments)
        chex.assert_tree_all_finite(after)


def test_norms_are_reported_per_parameter_group(make):
    run = tiny.Run(make(), source=cssl_jax.experiment.data_splits.load_data(make())[0])
    state = run.state()
    groups = parameter_groups(state.params)
    _, metrics = run.train_step()(state, run.constants, next(run.host_batches(0, 1)))
    parameters, gradient = np.asarray(metrics["norms"])
    for group, norm in zip(groups, parameters, strict=True):
        subtree = jax.device_get(state.params)
        for name in group.split("/"):
            subtree = subtree[name]
        squares = sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(subtree))
        assert norm == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert np.linalg.norm(gradient) == pytest.approx(float(metrics["gradient_norm"]), rel=1e-5)


def test_stop_is_the_default_and_reports_the_preceding_steps(make, tmp_path, capfd):
    (tmp_path / "recipe.json").write_text(recipes.to_json(make()))
    command = ["pretrain", str(tmp_path / "recipe.json"), "--workdir", str(tmp_path / "run")]
    bad = bad_steps()[0]
    assert cli.main(command) == 1
    printed = capfd.readouterr().err
    path = tmp_path / "run" / "nonfinite" / f"{bad:08}.json"
    message = (
        rf"(loss|gradient_norm) is (nan|inf) at step {bad}; its examples and norms are in {path}"
    )
    assert re.search(message, printed)
    assert "--train.on-nonfinite skip" in printed
    dump = json.loads(path.read_text())
    assert dump["step"] == bad
    assert POISONED in dump["examples"]
    assert len(set(dump["examples"])) == BATCH
    assert dump["metrics"]["gradient_norm"] in ("nan", "inf")
    assert dump["config_hash"] == recipes.config_hash(make())
    assert [line["step"] for line in dump["before"]] == list(range(1, bad))
    # The suggested command works on the same folder.
    assert cli.main([*command, "--train.on-nonfinite", "skip"]) == 0


def test_skip_omits_the_update_and_counts_it(make, tmp_path):
    config = make(on_nonfinite="skip")
    results = cssl_jax.pretrain(config, tmp_path / "run")
    lines, bad = logged(tmp_path / "run"), bad_steps()
    assert results["skipped_steps"] == len(bad)
    assert sorted(lines) == list(range(1, 10))
    for step, line in lines.items():
        assert (line["gradient_norm"] is None) == (step in bad)
        assert line["skipped_steps"] == sum(b <= step for b in bad)
    names = sorted(p.name for p in (tmp_path / "run" / "nonfinite").iterdir())
    assert names == [f"{step:08}.json" for step in bad]


def expected_losses(config):
    """Loss per step of a run that rolls back, by an independent loop over the same steps."""
    run = tiny.Run(config, source=cssl_jax.experiment.data_splits.load_data(config)[0])
    step = run.train_step()
    state, saved, losses = run.state(), run.state(), {}
    for done, host_batch in enumerate(run.host_batches(0, EPOCHS * STEPS_PER_EPOCH), 1):
        new, metrics = step(state.replace(step=np.int32(done - 1)), run.constants, host_batch)
        losses[done] = float(metrics["loss"])
        state = (
            saved if done in bad_steps() else new
        )  # the schedule is constant, so its counter has no effect
        if done % STEPS_PER_EPOCH == 0 and done not in bad_steps():
            saved = state
    return losses


@pytest.mark.slow
def test_rollback_continues_with_the_next_batch_from_the_last_checkpoint(
    make, tmp_path, monkeypatch, capfd
):
    config = make(on_nonfinite="rollback")
    compiled, data_parallel = [], spmd.data_parallel

    def record(*arguments, **options):
        compiled.append(data_parallel(*arguments, **options))
        return compiled[-1]

    compiled_step._compiled.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(spmd, "data_parallel", record)
        results = cssl_jax.pretrain(config, tmp_path / "run")
    assert [step._cache_size() for step in compiled] == [
        1
    ]  # a restored state causes no recompilation
    printed, lines = capfd.readouterr().err, logged(tmp_path / "run")
    for bad in bad_steps():
        back = (bad - 1) // STEPS_PER_EPOCH * STEPS_PER_EPOCH
        assert f"continuing with the next batch from the weights of step {back}" in printed
    expected = expected_losses(config)
    losses = {step: line["loss"] for step, line in lines.items()}
    for step, loss in losses.items():
        if step not in bad_steps():
            assert loss == pytest.approx(expected[step], rel=1e-5)
    assert results["skipped_steps"] == len(bad_steps())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_a_non_finite_last_step_is_evaluated_and_saved(make, tmp_path, mode):
    # Find a seed whose second epoch ends with the poisoned batch.
    for seed in range(50):
        sampler = Sampler(STEPS_PER_EPOCH * BATCH, BATCH, seed)
        last = sampler.draw(2 * STEPS_PER_EPOCH - 1, np.arange(BATCH))[0]
        first = sampler.draw(0, np.arange(BATCH))[0]
        if POISONED in last and POISONED not in first:
            break
    config = make(on_nonfinite=mode, seed=seed)
    config = tiny.replace(config, "train", epochs=2)
    results = cssl_jax.pretrain(config, tmp_path / "run")
    assert results["skipped_steps"] == 2
    assert cssl_jax.load_encoder(tmp_path / "run").step == 6
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("knn.top1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_a_killed_run_repeats_its_skipped_steps_exactly(make, tmp_path, mode):
    config = make(on_nonfinite=mode)
    cssl_jax.pretrain(config, tmp_path / "whole")
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(8)])
    cssl_jax.pretrain(config, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_a_run_of_non_finite_steps_ends_at_the_limit(make, tmp_path, mode):
    config = make(on_nonfinite=mode, nonfinite_limit=4)
    config = tiny.replace(config, "data", std=(1e-25,))  # every image overflows
    with pytest.raises(
        RunError, match=r"is nan at step 4; .*the 4th consecutive non-finite step \(.*limit is 4\)"
    ):
        cssl_jax.pretrain(config, tmp_path / "run")
    assert len(list((tmp_path / "run" / "nonfinite").iterdir())) == 4
