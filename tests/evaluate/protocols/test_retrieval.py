"""Recall and mean average precision against loops and scikit-learn, with ties and empty classes."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols import retrieval as module
from cssl_jax.evaluate.protocols.retrieval import retrieval

CLASSES = 5


def unit(x):
    x = np.float64(x)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def draw(rows=90, width=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=rows)
    centres = np.random.default_rng(9).normal(size=(CLASSES, width))
    return (centres[labels] + 1.5 * rng.normal(size=(rows, width))).astype(np.float32), labels


def test_metrics_are_those_of_a_loop_and_of_scikit_learn():
    gallery, labels = draw()
    queries, asked = draw(rows=41, seed=1)
    found = retrieval(gallery, labels, queries, asked, num_classes=CLASSES, recall_at=(1, 5, 500))
    similarity = unit(queries) @ unit(gallery).T
    precision = [
        average_precision_score(labels == label, row)
        for row, label in zip(similarity, asked, strict=True)
    ]
    ranked = labels[np.argsort(-similarity, axis=1)] == asked[:, None]
    assert found["map"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert found["recall"] == {
        "1": pytest.approx(ranked[:, :1].any(axis=1).mean()),
        "5": pytest.approx(ranked[:, :5].any(axis=1).mean()),
        "90": 1.0,  # the whole gallery
    }
    assert found["queries"] == 41
    assert 0.3 < found["recall"]["1"] < 0.9
    assert found["recall"]["1"] < found["recall"]["5"] < 1.0


def test_equals_share_a_rank_as_in_scikit_learn():
    labels = np.array([0, 1, 0, 1, 1, 0])
    scores = np.array([0.5, 0.5, 0.9, 0.2, 0.2, 0.2], np.float32)
    first, precision = module._rank(scores, scores[labels == 0])
    assert precision == pytest.approx(average_precision_score(labels == 0, scores))
    assert first == 1
    assert module._rank(scores, scores[[0]])[0] == 3  # tied rows share the worse rank


def test_a_collapsed_encoder_has_the_fractions_of_the_classes_and_no_recall():
    gallery, labels = draw()
    constant = np.ones_like(gallery)
    found = retrieval(constant, labels, constant, labels, num_classes=CLASSES, recall_at=(1, 90))
    share = np.bincount(labels)[labels] / len(labels)
    assert found["map"] == pytest.approx(share.mean())
    assert found["recall"] == {"1": 0.0, "90": 1.0}


def test_queries_whose_class_the_gallery_lacks_take_no_part():
    gallery, labels = draw()
    queries, asked = draw(rows=20, seed=1)
    present = labels != 2
    found = retrieval(gallery[present], labels[present], queries, asked, num_classes=CLASSES)
    kept = asked != 2
    assert 0 < found["queries"] == kept.sum() < 20
    assert found == retrieval(
        gallery[present], labels[present], queries[kept], asked[kept], num_classes=CLASSES
    )
    none = retrieval(gallery[~present], labels[~present], queries[kept], asked[kept],
                     num_classes=CLASSES)  # fmt: skip
    assert none["map"] is None
    assert none["queries"] == 0


def test_a_nan_encoder_finds_nothing():
    gallery, labels = draw()
    found = retrieval(gallery * np.nan, labels, gallery, labels, num_classes=CLASSES)
    assert found["map"] == 0.0
    assert set(found["recall"].values()) == {0.0}


def test_blocks_change_nothing(monkeypatch):
    gallery, labels = draw()
    queries, asked = draw(rows=41, seed=1)
    whole = retrieval(gallery, labels, queries, asked, num_classes=CLASSES)
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 8 * len(gallery))
    blocks = retrieval(gallery, labels, queries, asked, num_classes=CLASSES)
    assert blocks["map"] == pytest.approx(whole["map"], rel=1e-6)
    assert blocks["recall"] == whole["recall"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recall_at": (0,)}, r"recall_at is \(0,\)"),
        ({"queries": np.ones((90, 5))}, "query features are 5 wide, the gallery's 6"),
        ({"num_classes": 2}, r"gallery label \d is outside"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    gallery, labels = draw()
    given = {"gallery": gallery, "gallery_labels": labels, "queries": gallery,
             "query_labels": labels, "num_classes": CLASSES}  # fmt: skip
    with pytest.raises(UserError, match=message):
        retrieval(**(given | change))
