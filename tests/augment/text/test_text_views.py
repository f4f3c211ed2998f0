"""Views of text: which tokens stay, what they depend on, and that none is empty."""

import jax
import numpy as np
import pytest

from cssl_jax.augment.text.batched import apply_views
from cssl_jax.augment.text.policy import TextPolicy, sample_views
from cssl_jax.errors import UserError

STEPS = 12


def examples(count=64):
    length = np.arange(count) % (STEPS - 1) + 2  # from the two ends alone to a full row
    tokens = 10 + np.arange(count)[:, None] * STEPS + np.arange(STEPS)
    return {
        "tokens": np.where(np.arange(STEPS) < length[:, None], tokens, 0).astype(np.int32),
        "length": length.astype(np.int32),
    }


def views(policy, first=0, given=None, size=STEPS):
    given = given or examples()
    keys = np.stack([np.arange(len(given["length"])), np.full(len(given["length"]), 7)], axis=1)

    @jax.jit
    def compute(given, keys):
        drawn = sample_views(keys, policy, 2, first)
        return apply_views(given, drawn, policy=policy, size=size)

    return jax.device_get(compute(given, keys.astype(np.uint32)))


def kept_rows(made, given, view):
    """(tokens of the example, tokens of the view) per row, without padding."""
    for i, length in enumerate(given["length"]):
        yield given["tokens"][i, :length], made["tokens"][i, view, : made["length"][i, view]]


def test_without_operations_a_view_is_the_text():
    given, made = examples(), views(TextPolicy())
    for view in range(2):
        np.testing.assert_array_equal(made["tokens"][:, view], given["tokens"])
        np.testing.assert_array_equal(made["length"][:, view], given["length"])


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_deletion_keeps_the_order_the_ends_and_a_token(rate):
    given, made = examples(), views(TextPolicy(delete=(rate,)))
    fractions = []
    for view in range(2):
        for whole, part in kept_rows(made, given, view):
            assert (part[0], part[-1]) == (whole[0], whole[-1])
            assert set(part) <= set(whole)
            assert (np.diff(part) > 0).all()
            assert len(part) >= min(len(whole), 3)
            if len(whole) > 8:
                fractions.append((len(part) - 2) / (len(whole) - 2))
        outside = np.arange(STEPS) >= made["length"][:, view, None]
        assert not made["tokens"][:, view][outside].any()
    assert np.mean(fractions) == pytest.approx(max(1 - rate, 0.12), abs=0.1)


def test_a_crop_is_a_span_of_the_requested_length():
    given, made = examples(), views(TextPolicy(crop=(1.0,), crop_length=(0.5, 0.5)))
    starts = set()
    for view in range(2):
        for whole, part in kept_rows(made, given, view):
            inner = part[1:-1]
            assert len(inner) == -(-(len(whole) - 2) // 2)
            assert (np.diff(inner) == 1).all()
            if len(whole) == STEPS:
                starts.add(int(inner[0] - whole[0]))
    assert len(starts) > 2
    assert starts <= {1, 2, 3, 4, 5, 6}


def test_one_probability_per_view():
    given, made = examples(), views(TextPolicy(delete=(0.0, 1.0)))
    np.testing.assert_array_equal(made["length"][:, 0], given["length"])
    assert (made["length"][:, 1] == np.minimum(given["length"], 3)).all()


def test_views_depend_on_the_key_and_the_number_of_the_view_alone():
    policy = TextPolicy(delete=(0.5,))
    two, later = views(policy), views(policy, first=1)
    np.testing.assert_array_equal(two["tokens"][:, 1], later["tokens"][:, 0])
    assert (two["tokens"][:, 0] != two["tokens"][:, 1]).any()
    half = {name: value[:32] for name, value in examples().items()}
    np.testing.assert_array_equal(views(policy, given=half)["tokens"], two["tokens"][:32])


def test_longer_views_are_padded():
    made = views(TextPolicy(), size=STEPS + 4)
    assert made["tokens"].shape == (64, 2, STEPS + 4)
    assert not made["tokens"][..., STEPS:].any()


@pytest.mark.parametrize("values", [{"delete": (1.5,)}, {"crop_length": (0.0, 1.0)}])
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(UserError, match="augment"):
        TextPolicy(**values)
