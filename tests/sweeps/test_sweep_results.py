"""Trials in Optuna's storage and on file: ownership, order, table, plots and report."""

import csv
import itertools
import json
import re
import warnings

import numpy as np
import pytest

from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.sweeps import charts, sweep_results
from cssl_jax.sweeps.study import FILE, Study
from cssl_jax.sweeps.sweep_results import Axis, Sweep, Trial

optuna = pytest.importorskip("optuna")
SETTINGS = {"seed": 3, "sampler": "tpe", "pruner": "median", "prune_after": 0}
HOSTILE = "<img src=x onerror=alert(1)>"


def suggest(trial):
    return (
        trial.suggest_float("lr", 1e-4, 1.0, log=True),
        trial.suggest_float("tau", 0.1, 0.5),
        trial.suggest_categorical("encoder", ["small", HOSTILE]),
    )


def score(lr, tau, encoder):
    """Score of an imagined run: lr has the largest effect, encoder none."""
    return 0.9 - 0.1 * abs(np.log10(lr) + 2) - 0.1 * (tau - 0.2)


def open_study(folder, worker="ours", url="", **settings):
    folder.mkdir(exist_ok=True)
    return Study(folder, url, "sweep", worker, {**SETTINGS, **settings})


def end(study, trial, number):
    value = float(score(*suggest(trial)))
    trial.report(value - 0.1, 5)
    if number in (4, 9):
        return study.end(trial, "pruned", message="below the median", run=f"trials/{number:04}")
    if number == 6:
        return study.end(trial, "failed", message=f"loss is nan {HOSTILE}")
    trial.report(value, 10)
    # The reported metric is the reverse of the selection score, so that a choice by it would show.
    reported, images = {"kNN top-1": 1 - value}, [180, 179]
    return study.end(
        trial, "complete", value, reported=reported, images=images, run=f"trials/{number:04}"
    )


def swept(folder, study):
    return Sweep(
        path=folder, recipe="digits", config={"model": {"encoder": "x"}}, space=f"# {HOSTILE}\n",
        most=16, metric="kNN top-1", images=study.images(), settings=SETTINGS, axes=study.axes(),
        trials=sweep_results.ranked(study.trials()), importance=study.importance(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted sweep of 16 trials, written to its folder."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    study = open_study(folder)
    for number in range(16):
        trial = study.next(16)
        assert trial.number == number
        end(study, trial, number)
    assert study.next(16) is None
    sweep = swept(folder, study)
    about = {name: getattr(sweep, name) for name in ("recipe", "config", "space", "most")}
    (folder / sweep_results.SETTINGS).write_text(
        json.dumps({**about, "metric": sweep.metric, "settings": SETTINGS})
    )
    sweep_results.write(sweep)
    return sweep


@pytest.mark.slow
def test_a_sweep_killed_at_any_instant_draws_the_same_trials(whole, tmp_path):
    # Kill after the trial's start, after one drawn value, after all values, after an evaluation.
    moments = itertools.cycle(range(4))
    for number in range(16):
        trial, moment = open_study(tmp_path / "killed").next(16), next(moments)
        if moment == 1:
            trial.suggest_float("lr", 1e-4, 1.0, log=True)
        if moment > 1:
            value = float(score(*suggest(trial)))
        if moment == 3:
            trial.report(value - 0.1, 5)
        reopened = open_study(tmp_path / "killed")  # as in a new process
        trial = reopened.next(16)
        assert trial.number == number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # epoch 5 is reported a second time
            end(reopened, trial, number)
    reopened = open_study(tmp_path / "killed")
    assert reopened.next(16) is None
    assert sweep_results.ranked(reopened.trials()) == whole.trials


@pytest.mark.slow
def test_a_trial_belongs_to_the_folder_that_started_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    here = open_study(tmp_path / "here", "here", url)
    there = open_study(tmp_path / "there", "there", url)
    ours, theirs = here.next(3), there.next(3)
    assert (ours.number, theirs.number) == (0, 1)
    assert here.next(3).number == 0  # not trial 1, which may be running elsewhere
    end(here, ours, 0)
    assert here.next(3).number == 2
    there.end(theirs, "complete", 0.5, run="trials/0001", folder="/elsewhere")
    assert [t.run for t in here.trials()] == ["trials/0000", "/elsewhere/trials/0001", ""]


def test_a_sweep_with_other_settings_does_not_resume_a_study(tmp_path):
    open_study(tmp_path / "sweep")
    with pytest.raises(UserError, match="seed: 3 -> 4"):
        open_study(tmp_path / "sweep", seed=4)


def test_the_best_trial_has_the_highest_selection_score_whatever_it_reports(whole):
    complete = [t for t in whole.trials if t.state == "complete"]
    assert whole.best.score == max(score(**t.params) for t in complete)
    assert whole.best.reported["kNN top-1"] == min(t.reported["kNN top-1"] for t in complete)
    assert whole.best.epoch == 10
    assert "on the other 179 validation examples, which selected nothing" in whole.summary[3]


def test_the_table_is_sorted_and_the_files_hold_the_same(whole):
    states = [t.state for t in whole.trials]
    assert states == ["complete"] * 13 + ["pruned"] * 2 + ["failed"]
    scores = [t.score for t in whole.trials[:13]]
    assert scores == sorted(scores, reverse=True)
    assert sweep_results.read(whole.path) == whole
    with (whole.path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [t.number for t in whole.trials]
    for row, trial in zip(rows, whole.trials, strict=True):
        assert float(row["lr"]) == trial.params["lr"]
        assert row["encoder"] == trial.params["encoder"]
        assert float(row["score"] or "-inf") == trial.score
    assert rows[-1]["message"] == f"loss is nan {HOSTILE}"


def test_importance_is_optunas_own(whole):
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{whole.path / FILE}")
    theirs = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    assert whole.importance == pytest.approx(theirs)
    assert next(iter(whole.importance)) == "lr"
    bars = re.findall(r'width="([\d.]+)"/>', charts.importance_svg(whole.importance))
    full_width = charts.WIDTH - charts.NAME - 60
    fractions = [float(bar) / full_width for bar in bars]
    assert fractions == pytest.approx(list(theirs.values()), abs=1e-3)


def test_few_trials_have_no_importance(tmp_path):
    study = open_study(tmp_path / "sweep")
    for number in range(9):
        end(study, study.next(9), number)
    assert study.importance() == {}


@pytest.mark.parametrize(("axis", "value", "position"), [
    (Axis("x", 0.0, 10.0), 2.5, 0.25),
    (Axis("x", 1e-4, 1.0, logarithmic=True), 1e-3, 0.25),
    (Axis("x", choices=("64", "128", "256")), 128, 0.5),
    (Axis("x", choices=("one",)), "one", 0.5),
    (Axis("x", 3.0, 3.0), 3.0, 0.5),
])  # fmt: skip
def test_a_value_has_its_position_on_an_axis(axis, value, position):
    assert charts.height(axis, value) == pytest.approx(position)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height, _ in charts.axis_ticks(axis))


def test_parallel_coordinates_have_a_line_for_every_trial_with_a_score(whole):
    graph = charts.parallel_svg(whole)
    drawn = re.findall(r'<polyline class="([^"]+)" points="([^"]+)"', graph)
    assert [look for look, _ in drawn].count("series c0") == 12
    assert [look for look, _ in drawn].count("series lower c5") == 2  # pruned
    look, points = drawn[-1]  # the last line is drawn on top
    assert look == "series best c1"
    xy = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(xy) == 4  # three parameters and one score
    span = charts.HEIGHT - charts.TOP - charts.BOTTOM
    up = 1 - (xy[1][1] - charts.TOP) / span
    assert up == pytest.approx((whole.best.params["tau"] - 0.1) / 0.4, abs=1e-3)
    assert HOSTILE not in graph


def test_a_missing_parameter_interrupts_the_line_of_a_trial(whole):
    lone = Trial(0, "complete", {"lr": 0.1, "encoder": "small"}, curve=((1, 0.5),))
    graph = charts.parallel_svg(Sweep(**{**vars(whole), "trials": [lone]}))
    points = re.findall(r'points="([^"]+)"', graph)
    assert [len(p.split()) for p in points] == [2]  # encoder and score; lr alone is no line


@pytest.mark.parametrize("draw", [
    charts.parallel_png, charts.curves_png, lambda sweep: charts.importance_png(sweep.importance)
])  # fmt: skip
def test_png_charts_are_not_blank(whole, draw):
    pixels = np.asarray(draw(whole))
    colors = {tuple(c) for c in pixels.reshape(-1, 3)[::7]}
    assert (255, 255, 255) in colors
    assert len(colors) > 20


def test_the_report_has_every_section_and_no_external_reference(whole, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert cli.main(["report", str(whole.path), "--output", str(output)]) == 0
    assert "best: trial" in capsys.readouterr().out
    html = output.read_text()
    assert HOSTILE not in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "default-src 'none'" in html
    for name in ("Trials", "Importance of parameters", "Parallel coordinates", "Trials over"):
        assert name in html
    text = output.with_suffix(".md").read_text()
    assert HOSTILE not in text.split("## Space")[0]
    for path in re.findall(r"!\[[^]]+\]\(<([^>]+)>\)", text):
        assert (tmp_path / path).is_file()
    assert len(re.findall(r"^\| \d+ \|", text, re.MULTILINE)) == 16


def test_a_sweep_is_not_reported_together_with_other_folders(whole, tmp_path, capsys):
    assert cli.main(["report", str(whole.path), str(tmp_path)]) == 2
    assert "name it alone" in capsys.readouterr().err
    (tmp_path / sweep_results.SETTINGS).write_text("{")
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
