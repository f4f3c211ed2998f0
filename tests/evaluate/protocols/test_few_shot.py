"""Few-shot probe: scikit-learn's fit of every draw, the interval, nested and uniform draws."""

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols import few_shot as module
from cssl_jax.evaluate.protocols.few_shot import few_shot

CLASSES = 4


def draw(rows=80, width=8, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    centres = np.random.default_rng(9).normal(size=(CLASSES, width))
    return (centres[labels] + spread * rng.normal(size=(rows, width))).astype(np.float32), labels


def unit(x):
    return np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True)


def test_every_draw_is_scikit_learns_and_the_interval_students():
    x, labels = draw()
    tested, test_labels = draw(rows=200, seed=1)
    found = few_shot(x, labels, tested, test_labels, num_classes=CLASSES, shots=(5,), draws=7)
    orders = module._shuffle_classes(labels, 7, 0)
    scores = []
    for number in range(7):
        rows = np.concatenate([order[number, :5] for order in orders])
        reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
        reference.fit(unit(x[rows]), labels[rows])
        scores.append(reference.score(unit(tested), test_labels))
    low, high = scipy.stats.t.interval(0.95, 6, np.mean(scores), scipy.stats.sem(scores))
    metrics = found["shots"]["5"]
    assert metrics["top1"] == pytest.approx(np.mean(scores), abs=1e-3)  # one row of 1,400
    assert metrics["ci95"] == pytest.approx((high - low) / 2, rel=0.05)
    assert metrics["std"] == pytest.approx(np.std(scores, ddof=1), rel=0.05)
    assert 0.4 < metrics["top1"] < 0.99  # neither trivial nor impossible
    assert metrics["top5"] == 1.0


def test_the_weights_are_the_minimum_of_the_sum_of_losses_and_half_the_square():
    x, labels = draw(rows=20)
    kernels, biases = (np.asarray(w) for w in module._fit(
        unit(x).astype(np.float32)[None], labels[None], num_classes=CLASSES
    ))  # fmt: skip
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(unit(x), labels)
    # The solver stops at a decrease of 1e-6 of the objective: weights agree to about its root.
    np.testing.assert_allclose(kernels[0], reference.coef_, atol=5e-3)
    np.testing.assert_allclose(
        biases[0] - biases[0].mean(), reference.intercept_ - reference.intercept_.mean(), atol=5e-3
    )


def test_a_draw_has_k_rows_of_every_class_and_more_labels_contain_fewer():
    labels = np.array([0, 1, 1, 2, 2, 2, 0, 0])
    orders = module._shuffle_classes(labels, 50, 0)
    for label, order in enumerate(orders):
        assert (labels[order] == label).all()
        assert all(len(set(row)) == len(row) for row in order.tolist())  # no row twice
    # Every row of a class comes first equally often, within chance (50 draws).
    firsts = np.bincount(orders[2][:, 0], minlength=8)[3:6]
    assert firsts.sum() == 50
    assert firsts.min() > 5


def test_more_labels_are_better_and_vary_less():
    x, labels = draw(rows=400)
    tested, test_labels = draw(rows=200, seed=1)
    found = few_shot(x, labels, tested, test_labels, num_classes=CLASSES, shots=(1, 10), draws=30)[
        "shots"
    ]
    assert found["10"]["top1"] > found["1"]["top1"] + 0.05
    assert found["10"]["std"] < found["1"]["std"]


def test_numbers_that_a_class_does_not_have_are_skipped_by_name():
    x, labels = draw(rows=20)
    found = few_shot(x, labels, x, labels, num_classes=CLASSES, shots=(5, 6, 50), draws=2)
    assert list(found["shots"]) == ["5"]
    assert found["left_out"] == [6, 50]
    assert found["smallest_class"] == 5


def test_the_same_seed_draws_the_same():
    x, labels = draw()
    first, again, other = (
        few_shot(x, labels, x, labels, num_classes=CLASSES, shots=(1,), draws=5, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 1}, "draws is 1; a confidence interval needs at least 2"),
        ({"shots": ()}, r"shots are \(\)"),
        ({"shots": (0, 1)}, r"shots are \(0, 1\)"),
        ({"num_classes": 2}, "training label 2 is outside"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    x, labels = draw(rows=20)
    with pytest.raises(UserError, match=message):
        few_shot(x, labels, x, labels, **{"num_classes": CLASSES, **change})
