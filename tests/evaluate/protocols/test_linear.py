import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, log_loss

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.evaluate.solvers import logistic
from cssl_jax.evaluate.solvers.logistic import fit_all, fit_logistic
from tests.helpers.marks import slow


@functools.cache
def digits():
    """Pixels of 8 x 8 digits: (1,437 training rows, their labels, 360 test rows, their labels)."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    images = images.astype(np.float32)
    return images[train], labels[train], images[test], labels[test]


def standardise(train, x):
    std = train.std(axis=0)
    return (x - train.mean(axis=0)) / np.where(std > 0, std, 1)


def scikit_learn(x, labels, l2):
    # scikit-learn minimises C x (sum of losses) + ||W||^2 / 2. With C = 1 / (l2 N) this is our
    # objective divided by l2.
    return LogisticRegression(C=1 / (l2 * len(x)), tol=1e-7, max_iter=5000).fit(
        np.float64(x), labels
    )


def objective(kernel, bias, x, labels, l2):
    scores = np.float64(x) @ np.float64(kernel) + np.float64(bias)
    own = scores[np.arange(len(labels)), labels]
    losses = scipy.special.logsumexp(scores, axis=1) - own
    return losses.mean() + 0.5 * l2 * np.sum(np.float64(kernel) ** 2)


def blobs(rows=100, width=6, classes=3, spread=1.5, seed=0):
    # Most tests use this one shape: a fit takes milliseconds, its compilation seconds.
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + spread * rng.normal(size=(rows, width))).astype(np.float32), labels


@pytest.mark.parametrize("l2", [slow(1e-4), slow(1e-3), 1e-2, slow(1.0)])
def test_the_fit_reaches_scikit_learns_objective_and_accuracy_on_digits(l2):
    train, labels, test, test_labels = digits()
    x, y = standardise(train, train), standardise(train, test)
    kernel, bias = fit_logistic(x, labels, num_classes=10, l2=l2)
    reference = scikit_learn(x, labels, l2)
    ours = objective(kernel, bias, x, labels, l2)
    theirs = objective(reference.coef_.T, reference.intercept_, x, labels, l2)
    assert ours == pytest.approx(theirs, rel=1e-3)
    accuracy = np.mean(np.argmax(y @ kernel + bias, axis=1) == test_labels)
    # One row of 360 is 0.3 points.
    assert accuracy == pytest.approx(reference.score(y, test_labels), abs=0.003)


def test_at_the_solution_the_gradient_is_zero():
    x, labels = blobs()
    x, l2 = x.astype(np.float64), 1e-2
    with jax.enable_x64(True):
        weights = fit_logistic(x, labels, num_classes=3, l2=l2, tolerance=1e-10, precision=0.0)
    kernel, bias = (np.asarray(w) for w in weights)
    assert kernel.dtype == bias.dtype == np.float64
    residual = scipy.special.softmax(x @ kernel + bias, axis=1) - np.eye(3)[labels]
    # Stationarity in closed form; 1e-10 is the requested tolerance.
    np.testing.assert_allclose(x.T @ residual / len(x) + l2 * kernel, 0, atol=2e-10)
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=2e-10)


def test_the_bias_is_not_penalised():
    x, labels = blobs()
    kernel, bias = fit_logistic(x, labels, num_classes=3, l2=1e6, tolerance=1e-6, precision=0.0)
    # With a kernel near 0 the bias gives the class frequencies, to the tolerance of 1e-5.
    np.testing.assert_allclose(kernel, 0, atol=1e-5)
    np.testing.assert_allclose(scipy.special.softmax(bias), np.bincount(labels) / 100, atol=3e-5)


def test_without_iterations_the_weights_are_zero_and_few_iterations_are_few():
    x, labels = blobs()
    start, early, end = (
        fit_logistic(x, labels, num_classes=3, l2=1e-3, max_iterations=n) for n in (0, 2, 200)
    )
    assert not np.any(start[0])
    values = [objective(*weights, x, labels, 1e-3) for weights in (start, early, end)]
    assert values[0] == pytest.approx(np.log(3))
    assert values[0] > values[1] > values[2]


def test_half_precision_is_promoted():
    x, labels = blobs()
    kernel, bias = fit_logistic(jnp.asarray(x, jnp.bfloat16), labels, num_classes=3, l2=0.1)
    assert kernel.dtype == bias.dtype == jnp.float32
    exact = fit_logistic(
        np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32), labels, num_classes=3, l2=0.1
    )
    np.testing.assert_array_equal(kernel, exact[0])


@pytest.mark.slow
def test_the_probe_on_digits_is_scikit_learns_with_the_penalty_it_names():
    train, labels, test, test_labels = digits()
    metrics = linear_probe(train, labels, test, test_labels, num_classes=10)
    x, y = standardise(train, train), standardise(train, test)
    reference = scikit_learn(x, labels, metrics["l2"])
    assert metrics["top1"] == pytest.approx(reference.score(y, test_labels), abs=0.003)
    assert metrics["top5"] > 0.99


def test_the_penalty_is_the_best_on_a_held_out_fifth_of_the_training_rows():
    x, labels = blobs(spread=2.5)
    order = permute(np.arange(100), epoch_key(7, 0), 100)
    held_out, fitted = order[:20], order[20:]
    x = standardise(x, x)
    losses = {
        l2: log_loss(
            labels[held_out],
            scikit_learn(x[fitted], labels[fitted], l2).predict_proba(x[held_out]),
            labels=range(3),
        )
        for l2 in L2_VALUES
    }
    metrics = linear_probe(x, labels, x[:9], labels[:9], num_classes=3, seed=7)
    assert metrics["l2"] == min(losses, key=losses.get)
    assert min(L2_VALUES) < metrics["l2"] < max(L2_VALUES)  # not an end of the range


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 45])
def test_penalties_fitted_together_each_reach_scikit_learns_objective(count):
    train, labels, _, _ = digits()
    x = standardise(train, train)
    l2_values = tuple(np.logspace(-6, 5, 45)[:: 45 // count])[:count]
    kernels, biases = fit_all(x, labels, num_classes=10, l2_values=l2_values)
    assert kernels.shape == (count, 10, 64)
    for i in range(0, count, 11):  # a subset, since scikit-learn takes seconds for some
        reference = scikit_learn(x, labels, l2_values[i])
        ours = objective(kernels[i].T, biases[i], x, labels, l2_values[i])
        theirs = objective(reference.coef_.T, reference.intercept_, x, labels, l2_values[i])
        # The relative bound holds above l2 = 1e-4. Below it losses are near 0: 1e-6 is the bound.
        assert ours <= theirs * 1.001 + 1e-6


@pytest.mark.slow
def test_a_sweep_that_leaves_solved_problems_behind_gives_the_same(monkeypatch):
    x, labels = blobs()
    l2_values = tuple(np.logspace(-4, 3, 9))
    together = fit_all(x, labels, num_classes=3, l2_values=l2_values)
    monkeypatch.setattr(logistic, "_MIN_SHRINK_COST", 0)
    shrinking = fit_all(x, labels, num_classes=3, l2_values=l2_values)
    monkeypatch.setattr(logistic, "_MEMORY_LIMIT", 1)  # one problem at a time
    alone = fit_all(x, labels, num_classes=3, l2_values=l2_values)
    for other in (shrinking, alone):
        for ours, theirs in zip(together, other, strict=True):
            # Float32 sums are in another order, and the solver stops at 1e-6 of the objective.
            np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_more_dimensions_than_axes_of_the_preconditioner_change_only_the_way(monkeypatch):
    x, labels = blobs(width=40)
    exact = fit_all(x, labels, num_classes=3, l2_values=(1e-2, 1.0))
    monkeypatch.setattr(logistic, "_AXES", 5)
    logistic._principal_axes.clear_cache()
    few = fit_all(x, labels, num_classes=3, l2_values=(1e-2, 1.0))
    logistic._principal_axes.clear_cache()
    np.testing.assert_allclose(few[0], exact[0], atol=2e-3)


def test_rows_of_weight_zero_take_no_part_and_double_weight_is_two_rows():
    x, labels = blobs()
    weights = np.ones(100)
    weights[:30], weights[30:50] = 0.0, 2.0
    weighted = fit_all(x, labels, num_classes=3, l2_values=(0.01,), row_weights=weights,
                       precision=1e-8)  # fmt: skip
    rows = np.concatenate([np.arange(30, 100), np.arange(30, 50)])
    repeated = fit_all(x[rows], labels[rows], num_classes=3, l2_values=(0.01,), precision=1e-8)
    np.testing.assert_allclose(weighted[0], repeated[0], atol=1e-3)


def test_metrics_are_means_over_the_held_out_fifths_with_their_deviation():
    x, labels = blobs(rows=200, spread=2.5)
    given = (x[:100], labels[:100], x[100:], labels[100:])
    singles = [linear_probe(*given, num_classes=3, seed=seed) for seed in (4, 5, 6)]
    metrics = linear_probe(*given, num_classes=3, seed=4, seeds=3)
    tops = [single["top1"] for single in singles]
    assert metrics["l2_by_seed"] == [single["l2"] for single in singles]
    assert len(set(metrics["l2_by_seed"])) > 1
    assert metrics["top1"] == pytest.approx(np.mean(tops), abs=0.011)  # one row of 100
    assert metrics["top1_std"] == pytest.approx(np.std(tops, ddof=1), abs=0.011)
    assert (singles[0]["top1_std"], singles[0]["seeds"], metrics["seeds"]) == (0.0, 1, 3)


def test_classes_and_confusion_are_scikit_learns():
    train, labels, test, test_labels = digits()
    metrics = linear_probe(train, labels, test, test_labels, num_classes=11, l2_values=(0.01,))
    x, y = standardise(train, train), standardise(train, test)
    predicted = scikit_learn(x, labels, 0.01).predict(y)
    expected = confusion_matrix(test_labels, predicted, labels=range(11))
    difference = np.abs(np.array(metrics["confusion"]) - expected)
    assert difference.sum() <= 4  # two rows of 360 may differ
    assert np.trace(metrics["confusion"]) == round(360 * metrics["top1"])
    assert metrics["per_class"][10] is None  # no digit has class 10
    recalls = np.diagonal(metrics["confusion"])[:10] / np.bincount(test_labels)
    np.testing.assert_allclose(metrics["per_class"][:10], recalls)


def test_test_rows_choose_nothing():
    x, labels = blobs()
    noise, _ = blobs(rows=50, seed=5)
    metrics = [
        linear_probe(x, labels, test, np.full(len(test), label), num_classes=3)
        for test, label in ((x[:30], 0), (noise, 1), (1e3 * noise, 2))
    ]
    assert len({figure["l2"] for figure in metrics}) == 1


def test_features_that_say_nothing_get_a_penalty_that_leaves_nothing_of_them():
    # The digits' shape: with this many held-out rows no chance correlation lowers the loss.
    x = np.random.default_rng(0).normal(size=(1437, 64)).astype(np.float32)
    labels = np.random.default_rng(1).integers(10, size=1437)
    metrics = linear_probe(x, labels, x, labels, num_classes=10)
    assert metrics["l2"] >= 1.0


def test_the_probe_does_not_depend_on_offset_and_scale_of_a_dimension():
    x, labels = blobs(rows=150)
    scale = np.logspace(-3, 3, 6).astype(np.float32)
    plain, moved = (
        linear_probe(z[:100], labels[:100], z[100:], labels[100:], num_classes=3)
        for z in (x, x * scale + 5 * scale)
    )
    assert plain == moved


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_dimension_changes_nothing_even_where_test_rows_differ(constant):
    x, labels = blobs(rows=150)
    x[:, 0] = 0.0
    empty, rng = x.copy(), np.random.default_rng(0)
    # Constant up to the last bit: rounding noise must not be scaled up to a feature.
    x[:100, 0] = constant * (1 + 1e-7 * (labels[:100] == 0))
    x[100:, 0] = rng.normal(size=50)
    with_it, without = (
        linear_probe(z[:100], labels[:100], z[100:], labels[100:], num_classes=3)
        for z in (x, empty)
    )
    assert with_it == without


def test_a_nan_encoder_scores_nothing():
    x, labels = blobs()
    metrics = linear_probe(x * np.nan, labels, x * np.nan, labels, num_classes=3)
    assert (metrics["top1"], metrics["top5"]) == (0.0, 0.0)


def test_the_same_call_gives_the_same_metrics():
    x, labels = blobs()
    first, second = (
        linear_probe(x, labels, x, labels, num_classes=3, l2_values=(1, 0.1), seed=3)
        for _ in range(2)
    )
    assert first == second
    assert first["l2"] in (1, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 2}, r"training label 2 is outside \[0, 2\)"),
        ({"train_labels": np.zeros(4, int)}, r"training labels are int64 \(4,\)"),
        ({"test_labels": np.full(100, 3)}, "test label 3"),
        ({"test_features": np.ones((100, 5))}, "test features are 5 wide, training features 6"),
        ({"train_features": np.ones((1, 6)), "train_labels": np.zeros(1, int)}, "1 training row"),
        ({"seeds": 0}, "seeds is 0"),
        ({"l2_values": ()}, r"l2_values are \(\)"),
        ({"l2_values": (1.0, -0.1)}, r"l2_values are \(1.0, -0.1\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    x, labels = blobs()
    given = {
        "train_features": x,
        "train_labels": labels,
        "test_features": x,
        "test_labels": labels,
        "num_classes": 3,
    }
    with pytest.raises(UserError, match=message):
        linear_probe(**(given | change))


def test_a_negative_penalty_is_refused():
    x, labels = blobs()
    with pytest.raises(UserError, match=r"l2 is -1.0"):
        fit_logistic(x, labels, num_classes=3, l2=-1.0)
