import jax
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import top_k_accuracy
from cssl_jax.evaluate.protocols import knn as knn_module
from cssl_jax.evaluate.protocols.knn import knn, knn_predict, neighbours

CLASSES = 5


def unit(x):
    x = np.asarray(x, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def loop_scores(bank, labels, queries, k, temperature):
    """Section 3.4 of arXiv 1805.01978 in float64, relative to the nearest neighbour's weight."""
    bank, scores = unit(bank), np.zeros((len(queries), CLASSES))
    for row, query in enumerate(unit(queries)):
        similarity = bank @ query
        nearest = np.argsort(-similarity, kind="stable")[:k]
        for index in nearest:
            scores[row, labels[index]] += np.exp(similarity[index] / temperature)
        scores[row] /= np.exp(similarity[nearest[0]] / temperature)
    return scores


def draw(rows=120, queries=37, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, width))
    labels, query_labels = (rng.integers(CLASSES, size=n) for n in (rows, queries))
    bank = centres[labels] + rng.normal(size=(rows, width))
    return (
        bank.astype(np.float32),
        labels,
        (centres[query_labels] + rng.normal(size=(queries, width))).astype(np.float32),
        query_labels,
    )


# A float32 similarity is off by about 2e-7, its weight by that over the temperature.
def close(temperature):
    return {"rtol": 1e-6 / temperature, "atol": 1e-6}


@pytest.mark.parametrize("k", [1, 20, 120])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_votes_are_scikit_learns_with_the_papers_weights(k, temperature):
    bank, labels, queries, _ = draw()
    # For unit vectors, similarity = 1 - distance^2 / 2.
    reference = KNeighborsClassifier(
        k, weights=lambda distance: np.exp((1 - distance**2 / 2) / temperature), algorithm="brute"
    ).fit(unit(bank), labels)
    scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=k, temperature=temperature)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores / scores.sum(axis=1, keepdims=True),
        reference.predict_proba(unit(queries)),
        **close(temperature),
    )


def test_scores_are_weights_over_the_weight_of_the_nearest():
    bank, labels, queries, _ = draw()
    scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=10)
    np.testing.assert_allclose(scores, loop_scores(bank, labels, queries, 10, 0.1), **close(0.1))


@pytest.mark.parametrize("block_size", [1, 8, 36, 37, 1000])
def test_no_query_is_dropped_whatever_the_block(block_size):
    bank, labels, queries, _ = draw(queries=37)
    scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=9, block_size=block_size)
    np.testing.assert_allclose(scores, loop_scores(bank, labels, queries, 9, 0.1), **close(0.1))


def test_all_blocks_share_one_compilation():
    bank, labels, queries, _ = draw(queries=37)
    knn_module._nearest.clear_cache()
    knn_predict(bank, labels, queries, num_classes=CLASSES, k=9, block_size=8)
    assert knn_module._nearest._cache_size() == 1


@pytest.mark.parametrize("rows", [7, 40, 119])
def test_a_bank_in_blocks_has_the_neighbours_of_the_whole(monkeypatch, rows):
    bank, _, queries, _ = draw()
    bank[70] = bank[3]  # of equal rows the earlier one comes first, in any block
    similarity = unit(queries) @ unit(bank).T
    monkeypatch.setattr(knn_module, "BANK_BLOCK", rows)
    found = list(neighbours(bank, queries, k=20, block_size=16))
    assert [len(index) for _, index in found] == [16, 16, 5]
    values, index = (np.concatenate(part) for part in zip(*found, strict=True))
    np.testing.assert_allclose(values, -np.sort(-similarity, axis=1)[:, :20], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(similarity, index, axis=1), values, atol=1e-6)
    places = np.where(index == 3, np.arange(20), 99).min(axis=1)
    copies = np.where(index == 70, np.arange(20), 99).min(axis=1)
    assert (places <= copies).all()
    assert (places < copies).any()


def test_a_list_of_k_gives_what_each_gives_alone():
    bank, labels, queries, query_labels = draw()
    given = (bank, labels, queries, query_labels)
    several = knn(*given, num_classes=CLASSES, k=(20, 1, 500, 3))
    alone = {k: knn(*given, num_classes=CLASSES, k=k) for k in (1, 3, 20, 120)}
    assert several.by_k == {
        str(k): {"top1": found.top1, "top5": found.top5} for k, found in alone.items()
    }
    assert several["top1"] == alone[20]["top1"]  # the first k of the list
    assert len({metrics["top1"] for metrics in alone.values()}) > 1


def test_neighbours_beyond_the_bank_are_refused():
    bank, _, queries, _ = draw(rows=10)
    with pytest.raises(UserError, match="k is 11, but the bank has 10 rows"):
        list(neighbours(bank, queries, k=11))


def test_more_neighbours_than_the_bank_holds_are_the_whole_bank():
    bank, labels, queries, _ = draw(rows=30)
    few, many = (knn_predict(bank, labels, queries, num_classes=CLASSES, k=k) for k in (30, 200))
    np.testing.assert_array_equal(few, many)


def test_the_norm_of_a_feature_does_not_vote():
    bank, labels, queries, _ = draw()
    lengths = np.random.default_rng(1).uniform(1e-3, 1e3, size=(len(bank), 1)).astype(np.float32)
    scores = knn_predict(bank * lengths, labels, queries * 1e6, num_classes=CLASSES, k=9)
    np.testing.assert_allclose(scores, loop_scores(bank, labels, queries, 9, 0.1), **close(0.1))


def test_zero_features_are_similar_to_nothing_and_give_no_nan():
    bank, labels, queries, _ = draw()
    bank[::7], queries[::5] = 0.0, 0.0
    scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=len(bank))
    expected = loop_scores(bank, labels, queries, len(bank), 0.1)
    np.testing.assert_allclose(scores, expected, **close(0.1))
    # A zero query is equally similar to all rows: each neighbour has a vote of 1.
    np.testing.assert_allclose(scores[0], np.bincount(labels, minlength=CLASSES), rtol=1e-6)


def test_a_tiny_temperature_neither_overflows_nor_vanishes():
    bank, labels, queries, _ = draw()
    scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=50, temperature=1e-4)
    nearest = np.argmax(unit(queries) @ unit(bank).T, axis=1)
    np.testing.assert_array_equal(np.argmax(scores, axis=1), labels[nearest])
    assert np.all(np.isfinite(scores))


def test_float64_features_stay_float64_under_x64():
    bank, labels, queries, _ = (np.asarray(x) for x in draw())
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    with jax.enable_x64(True):
        scores = knn_predict(bank, labels, queries, num_classes=CLASSES, k=9)
    np.testing.assert_allclose(scores, loop_scores(bank, labels, queries, 9, 0.1), rtol=1e-12)


def test_metrics_are_scikit_learns():
    bank, labels, queries, query_labels = draw(rows=60, seed=3)
    metrics = knn(bank, labels, queries, query_labels, num_classes=CLASSES, k=10)
    scores = loop_scores(bank, labels, queries, 10, 0.1)
    assert metrics["top1"] == top_k_accuracy_score(query_labels, scores, k=1)
    assert 0.5 < metrics["top1"] < 1.0  # neither trivial nor impossible
    assert metrics["top5"] == 1.0


def test_a_nan_encoder_scores_nothing():
    bank, labels, queries, query_labels = draw()
    metrics = knn(bank * np.nan, labels, queries * np.nan, query_labels, num_classes=CLASSES)
    assert (metrics.top1, metrics.top5) == (0.0, 0.0)


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_accuracy_is_scikit_learns(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 10)), rng.integers(10, size=200)
    assert top_k_accuracy(scores, labels, k) == pytest.approx(
        top_k_accuracy_score(labels, scores, k=k, labels=range(10)), abs=1e-15
    )


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_of_equal_scores_the_lower_class_comes_first(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(3, size=(100, 6)).astype(np.float32), rng.integers(6, size=100)
    hits = [
        label in sorted(range(6), key=lambda c, row=row: (-row[c], c))[:k]
        for row, label in zip(scores, labels, strict=True)
    ]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(np.mean(hits), abs=1e-15)


@pytest.mark.parametrize("k", [3, 4, 5])
def test_with_k_classes_or_fewer_every_row_is_a_hit(k):
    scores = np.array([[0.0, 0.0, -np.inf], [1.0, 2.0, 3.0]])
    assert top_k_accuracy(scores, np.array([2, 0]), k) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"block_size": -1}, "block_size is -1"),
        ({"num_classes": 3}, r"bank label \d is outside \[0, 3\)"),
        ({"bank_labels": np.zeros(3, int)}, r"bank labels are int64 \(3,\)"),
        ({"bank_labels": np.zeros(120)}, "bank labels are float64"),
        ({"bank_labels": np.full(120, -1)}, "bank label -1"),
        ({"bank": np.zeros((0, 16))}, r"bank features have shape \(0, 16\)"),
        ({"queries": np.zeros((4, 15))}, r"query features have shape \(4, 15\)"),
        ({"queries": np.zeros((0, 16))}, r"query features have shape \(0, 16\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    bank, labels, queries, _ = draw()
    given = {"bank": bank, "bank_labels": labels, "queries": queries, "num_classes": CLASSES}
    with pytest.raises(UserError, match=message):
        knn_predict(**(given | change))
