"""Protocol `groups`: every group is evaluated by a probe that has not seen it."""

import numpy as np
import pytest

from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols.leave_group_out import check_groups, leave_group_out


def test_a_group_whose_labels_contradict_the_others_is_wrong_and_the_others_are_right():
    """Closed form: two far clusters. The small group b has their labels exchanged."""
    rng, number = np.random.default_rng(0), np.arange(90)
    cluster, groups = number % 2, np.select([number < 40, number < 50], ["a", "b"], "c")
    features = 20.0 * np.stack([cluster, 1 - cluster], axis=1) + rng.normal(size=(90, 2))
    labels = np.where(groups == "b", 1 - cluster, cluster)
    found = leave_group_out(features, labels, groups, num_classes=2, l2_values=(1e-2,))
    assert found["by_group"] == {
        "a": {"top1": 1.0, "examples": 40},
        "b": {"top1": 0.0, "examples": 10},
        "c": {"top1": 1.0, "examples": 40},
    }
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["top1_std"] == pytest.approx(1 / 3**0.5)


def test_what_has_no_groups_or_no_labels_is_refused():
    examples = {"values": np.zeros((4, 3, 1), np.float32), "length": np.full(4, 3, np.int32)}
    plain = ArraySource("x", examples, np.zeros(4, np.int64))
    with pytest.raises(UserError, match="x has none; give a group per example"):
        check_groups(plain)
    one = ArraySource("x", examples, plain.labels, groups=np.array(["a"] * 4))
    with pytest.raises(UserError, match="x has only 'a'"):
        check_groups(one)
    two = ArraySource("x", examples, groups=np.array(["a", "a", "b", "b"]))
    with pytest.raises(UserError, match="needs labels, and x has none"):
        check_groups(two)
