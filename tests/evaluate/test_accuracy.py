import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, top1_top5, top_k_accuracy


def test_top1_and_top5_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(300, 12)).astype(np.float32), rng.integers(12, size=300)
    metrics = top1_top5(scores, labels)
    assert metrics == {
        f"top{k}": pytest.approx(
            top_k_accuracy_score(labels, scores, k=k, labels=range(12)), abs=1e-12
        )
        for k in (1, 5)
    }
    assert all(type(metric) is float for metric in metrics.values())  # for JSON, no NumPy scalars


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_up_to_five_classes_are_all_among_the_top_five(classes):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(20, classes)), rng.integers(classes, size=20)
    assert top1_top5(scores, labels)["top5"] == 1.0


def test_scores_that_are_all_equal_are_worth_the_lowest_classes():
    labels = np.arange(10)
    assert top1_top5(np.zeros((10, 10)), labels) == {"top1": 0.1, "top5": 0.5}


def test_infinite_scores_are_ordered_and_nan_is_a_miss():
    scores = np.array([[np.inf, 0.0, -np.inf], [-np.inf, -np.inf, 0.0], [np.nan, 0.0, 1.0]])
    assert top_k_accuracy(scores, np.array([0, 2, 0]), 1) == pytest.approx(2 / 3)
    assert top_k_accuracy(scores, np.array([2, 1, 0]), 3) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_labels_of_any_integer_type_are_taken(dtype):
    labels = checked_labels(
        np.array([0, 2, 1], dtype), np.ones((3, 4)), num_classes=3, name="training"
    )
    np.testing.assert_array_equal(labels, [0, 2, 1])
    assert labels.dtype == np.int32


def test_a_label_beyond_the_classes_is_named_with_its_rows():
    with pytest.raises(UserError, match=r"test label 7 is outside \[0, 3\)"):
        checked_labels(np.array([0, 7, 1]), np.ones((3, 4)), num_classes=3, name="test")
