"""Typed results hold what results.json holds, and write it back unchanged."""

import json

import pytest

from cssl_jax.evaluate.results import BASELINES, Results
from cssl_jax.evaluate.scores import Shot

LINEAR = {"top1": 0.9, "top5": 1.0, "l2": 0.1, "confusion": [[3, 1], [0, 4]]}
CONTENT = {
    "config_hash": "0123",
    "source": "digits",
    "split": {"train": 48, "validation": 12},
    "step": 9,
    "num_classes": 10,
    "knn": {"top1": 0.5, "top5": 0.75, "k": 5, "by_k": {"1": {"top1": 0.25, "top5": 0.5}}},
    "linear": LINEAR,
    "few_shot": {
        "shots": {"1": {"top1": 0.5, "ci95": 0.25}},
        "draws": 10,
        "left_out": [5],
        "smallest_class": 4,
    },
    "best": {"step": 6, "images": 6, "linear": LINEAR, "last": {"linear": LINEAR}},
    "selection": {"by": "kNN top-1", "images": 6, "words": "text"},
    "random_init": {"linear": LINEAR, "description": "seeded"},
    "pixels": {"knn": {"top1": 0.25, "top5": 0.5, "k": 5}},
    "leakage": {"train": {"exact": 1, "words": "text", "pairs": []}},
    "transfer": {"other.npz": {"step": 9, "linear": LINEAR, "pixels": {"linear": LINEAR}}},
    "versions": {"jax": "1"},
}


def test_attributes_and_keys_give_the_same_values():
    results = Results.from_json(CONTENT)
    assert results.linear.top1 == results["linear"]["top1"] == 0.9
    assert results.knn.by_k["1"].top5 == results["knn"]["by_k"]["1"]["top5"] == 0.5
    assert results.best.last.linear.l2 == results["best"]["last"]["linear"]["l2"] == 0.1
    assert results.baselines["pixels"].knn.k == results["pixels"]["knn"]["k"] == 5
    assert results.transfer["other.npz"].baselines["pixels"].linear.top1 == 0.9
    assert isinstance(results.few_shot.shots["1"], Shot)
    assert set(results) == set(CONTENT)
    assert results == CONTENT
    assert {**results} == CONTENT


def test_absent_protocols_and_metrics_are_none():
    results = Results.from_json({"step": 1, "linear": {"top1": 0.5}})
    assert results.knn is None
    assert results.linear.top5 is None
    assert results.baselines == {}
    assert "knn" not in results
    assert list(results.accuracies) == ["linear"]


def test_a_round_trip_keeps_every_key_known_or_not():
    content = {
        **CONTENT,
        "view_retrieval": None,  # it was not finite
        "future": {"a": [1]},
        "linear": {**LINEAR, "unknown": 3, "seeds": None},
        "random_init": {**CONTENT["random_init"], "other": "x"},
        "few_shot": {"shots": {"1": {"mean": 0.5, "ci95": 0.25}}},  # keys of an earlier version
    }
    written = Results.from_json(content).to_json()
    assert written == content
    assert json.dumps(written) == json.dumps(content)  # the order of the keys included
    assert type(written["linear"]) is type(written["pixels"]) is dict


def test_every_baseline_is_an_entry_with_a_label_of_its_own():
    results = Results.from_json(CONTENT)
    assert list(results.baselines) == list(BASELINES) == ["random_init", "pixels"]
    labels = [label for label, _ in results.rows]
    assert labels == ["trained encoder", "untrained encoder", "raw pixels"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "Results is .*, not an object"),
        ({}, "Results has no 'step'"),
        ({"step": 1, "linear": 0.5}, "LinearScores is 0.5, not an object"),
        ({"step": 1, "leakage": {"train": "no"}}, "Leakage is no, not an object"),
    ],
)
def test_content_of_another_form_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Results.from_json(content)
