"""Hooks of the training loop: when each is called, with what, and how a hook ends a run."""

import json

import chex
import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax.errors import StoppedRunError, UserError
from cssl_jax.train.hooks import Hook
from helpers import tiny
from helpers.stops import CrashError, crash_after


class Journal(Hook):
    """Writes down the calls of one or several hooks with the step of the run."""

    def __init__(self, calls, name=""):
        self.calls, self.name = calls, name

    def _note(self, event, run, *more):
        self.calls.append((f"{self.name}{event}", run.step, *more))

    def on_start(self, run):
        self._note("start", run)

    def before_step(self, run):
        self._note("before", run)

    def after_step(self, run, metrics, wait):
        self._note("after", run)
        assert int(run.state.step) == run.step
        assert np.isfinite(float(metrics["loss"]))
        assert wait >= 0

    def before_save(self, run):
        self._note("save", run)

    def after_evaluation(self, run, scores):
        self._note("evaluated", run)
        assert (run.folder / "metrics.jsonl").read_text().count("selection_top1") == run.epoch // 2
        assert 0 <= scores["knn.selection_top1"] <= 1

    def after_save(self, run, scores):
        self._note("saved", run, bool(scores))

    def on_end(self, run, error):
        self._note("end", run, type(error))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    source = tiny.image_source(60)
    np.savez(path, images=source.images, labels=source.labels)
    config = tiny.config(epochs=2, checkpoint_every=1, evaluate_every=2, tensorboard=False)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    config = tiny.replace(config, "runtime", devices=1)
    return tiny.replace(config, "data", source=str(path))


STEP_1_TO_3 = [
    *[("before", 0), ("after", 1), ("before", 1), ("after", 2), ("before", 2), ("after", 3)],
    *[("save", 3), ("saved", 3, False)],
]
STEP_4_TO_6 = [
    *[("before", 3), ("after", 4), ("before", 4), ("after", 5), ("before", 5), ("after", 6)],
    *[("save", 6), ("evaluated", 6), ("saved", 6, True)],
]


@pytest.mark.slow
def test_hooks_are_called_in_order_and_a_crashed_run_resumes_to_the_same_bits(config, tmp_path):
    calls = []
    cssl_jax.pretrain(config, tmp_path / "whole", hooks=[Journal(calls)])
    assert calls == [
        ("start", 0),
        *STEP_1_TO_3,
        *STEP_4_TO_6,
        ("end", 6, type(None)),
    ]
    calls = []
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[Journal(calls), crash_after(4)])
    assert calls[-1] == ("end", 4, CrashError)
    calls = []
    cssl_jax.pretrain(config, tmp_path / "run", hooks=[Journal(calls)])
    assert calls == [("start", 3), *STEP_4_TO_6, ("end", 6, type(None))]
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    calls = []
    cssl_jax.pretrain(config, tmp_path / "whole", hooks=[Journal(calls)])
    assert calls == []  # a finished run trains no step


@pytest.mark.slow
def test_several_hooks_act_in_turn_and_end_in_the_reverse_order(config, tmp_path):
    calls = []
    hooks = [Journal(calls, "a."), Journal(calls, "b."), crash_after(1)]
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=hooks)
    names = ["start", "before", "after"]
    expected = [f"{hook}.{name}" for name in names for hook in "ab"] + ["b.end", "a.end"]
    assert [name for name, *_ in calls] == expected


def test_a_hook_that_stops_the_run_loses_nothing(config, tmp_path):
    class Enough(Hook):
        def after_save(self, run, scores):
            raise StoppedRunError(f"enough at step {run.step}")

    with pytest.raises(StoppedRunError, match="enough at step 3"):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[Enough()])
    assert cssl_jax.load_encoder(tmp_path / "run").step == 3


def test_a_hook_that_refuses_to_start_ends_those_that_have_started(config, tmp_path):
    class Refusal(Hook):
        def on_start(self, run):
            raise UserError("not here")

    calls = []
    hooks = [Journal(calls, "a."), Refusal(), Journal(calls, "b.")]
    with pytest.raises(UserError, match="not here"):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=hooks)
    assert calls == [("a.start", 0), ("a.end", 0, UserError)]


@pytest.mark.slow
def test_a_rollback_is_announced_with_the_restored_state(config, tmp_path):
    class Poison(Hook):
        """Makes the parameters infinite once; the loss of the next step is then not finite."""

        def __init__(self):
            self.done, self.rolled_back = False, []

        def before_step(self, run):
            if run.step == 4 and not self.done:
                self.done = True
                spoiled = jax.tree.map(lambda x: x * np.inf, run.state.params)
                run.state = run.state.replace(params=spoiled)

        def on_rollback(self, run):
            self.rolled_back.append((run.step, int(run.state.step)))
            chex.assert_tree_all_finite(run.state.params)

    poison = Poison()
    rolling = tiny.replace(config, "train", on_nonfinite="rollback")
    cssl_jax.pretrain(rolling, tmp_path / "run", hooks=[poison])
    assert poison.rolled_back == [(5, 5)]
    (dump,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert json.loads(dump.read_text())["step"] == 5
