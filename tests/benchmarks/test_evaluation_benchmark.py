"""The benchmark of evaluation: its JSON, its contenders' agreement, and a peer that is absent."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ["--bank", "600", "--queries", "70", "--width", "16", "--k", "20", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(what it printed, its JSON); this interpreter has scikit-learn and may lack faiss."""
    folder = tmp_path_factory.mktemp("evaluation")
    options = [*SMALL, "--sections", "knn,single", "--repeats", "1", "--tolerances", "1e-6"]
    command = [sys.executable, str(BENCHMARKS / "evaluation.py"), *options]
    done = subprocess.run(
        [*command, "--peer-python", sys.executable, "--results", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "evaluation.json").read_text())


def rows(section):
    return {row["contender"]: row for row in section["rows"]}


@pytest.mark.slow
def test_json_says_what_was_measured_where(ran):
    for section in ran[1].values():
        assert {"command", "date", "machine", "versions", "options", "rows", "targets"} <= set(
            section
        )
    assert str(BENCHMARKS.parent) not in json.dumps(ran[1])


@pytest.mark.slow
def test_ours_and_scikit_learn_find_the_same_neighbours(ran):
    found = rows(ran[1]["knn"])
    for peer in ("sklearn", "sklearn-euclidean"):
        for key in ("similarity", "farthest"):
            assert found["ours"][key] == pytest.approx(found[peer][key], abs=1e-5)
    assert found["ours"]["above_features_bytes"] > 50e6  # JAX itself counts


@pytest.mark.slow
def test_a_claim_over_the_faster_of_two_needs_both(ran):
    try:
        import faiss  # noqa: F401
    except ImportError:
        section = ran[1]["knn"]
        assert "faiss" in rows(section)["faiss"]["failed"]
        assert [found["met"] for found in section["targets"][:2]] == [None, None]
    else:
        assert ran[1]["knn"]["targets"][0]["met"] is not None


@pytest.mark.slow
def test_ours_and_scikit_learn_reach_the_same_objective(ran):
    section = ran[1]["single"]
    found = rows(section)
    assert found["ours"]["objectives"] == pytest.approx(found["sklearn"]["objectives"], rel=1e-4)
    assert section["compared_with"] == "sklearn, tol 1e-06"
    assert "times as fast as scikit-learn" in ran[0]


def test_a_contender_that_finds_others_is_none():
    from evaluation.neighbours import _refuse_other_neighbours

    found = [{"similarity": 0.5, "farthest": 0.4}, {"similarity": 0.5, "farthest": 0.41}]
    _refuse_other_neighbours(found)
    assert "failed" not in found[0]
    assert found[1]["failed"] == "another farthest: 0.410000 for 0.400000"


def test_the_features_are_what_their_docstring_says():
    from evaluation.features import CLASSES, draw

    x, labels = draw(4000, 512, 1)
    assert set(labels) == set(range(CLASSES))
    assert (x == 0).mean() == pytest.approx(0.5, abs=0.02)
    spread = np.linalg.eigvalsh(np.corrcoef(x.T))
    assert spread[-1] / 512 == pytest.approx(0.1, abs=0.02)
    assert 300 < spread[-1] / spread[0] < 3000
    np.testing.assert_array_equal(draw(10, 512, 1)[0], draw(10, 512, 1)[0])
    # Another seed is another sample of the same world: its classes have the same means.
    y, others = draw(4000, 512, 2)
    means = [
        np.stack([a[b == c].mean(axis=0) for c in range(CLASSES)])
        for a, b in ((x, labels), (y, others))
    ]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.95
