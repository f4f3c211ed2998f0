from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cssl_jax.data.sampler import Sampler, epoch_key, example_key, mix, permute
from cssl_jax.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_epoch_is_a_permutation(size):
    for epoch in range(3):
        order = permute(np.arange(size), epoch_key(5, epoch), size)
        assert sorted(order) == list(range(size))


def test_permuted_positions_stay_in_range_for_the_largest_size():
    size = 2**31 - 1
    positions = np.array([0, 1, size // 2, size - 1])
    images = permute(positions, epoch_key(0, 0), size)
    assert (images < size).all()
    assert len(set(images.tolist())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("vary", ["seed", "epoch"])
def test_all_orders_of_four_are_equally_likely(vary):
    keys = [epoch_key(i, 0) if vary == "seed" else epoch_key(0, i) for i in range(4800)]
    counts = Counter(tuple(permute(np.arange(4), key, 4).tolist()) for key in keys)
    assert len(counts) == 24
    # Chi-square with fixed keys: the result is the same in every run; 1e-3 is not a tuned bound.
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_epochs_and_seeds_give_unrelated_orders():
    size = 20_000
    orders = [
        permute(np.arange(size), epoch_key(seed, epoch), size).astype(float)
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (2**40, 0)]
    ]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            # The correlation of independent orders has standard deviation 1 / sqrt(size) = 0.007.
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.035
        assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.035


def test_numpy_and_jax_agree_to_the_bit():
    sampler = Sampler(size=1437, batch_size=64, seed=2**35 + 3)
    rows = np.arange(64)
    compiled = jax.jit(lambda step: sampler.draw(step, jnp.asarray(rows), jnp))
    for step in (0, 21, 22, 500):
        index, key = sampler.draw(step, rows)
        their_index, their_key = compiled(jnp.int32(step))
        np.testing.assert_array_equal(index, their_index)
        np.testing.assert_array_equal(key, their_key)
        assert index.dtype == np.int32
        assert key.dtype == np.uint32


def test_an_epoch_visits_no_example_twice_and_skips_only_the_remainder():
    sampler = Sampler(size=103, batch_size=10, seed=0)
    assert sampler.steps_per_epoch == 10
    drawn = np.concatenate([sampler.draw(step, np.arange(10))[0] for step in range(10)])
    assert len(set(drawn.tolist())) == 100
    skipped = [set(range(103)) - set(drawn.tolist())]
    drawn = np.concatenate([sampler.draw(step, np.arange(10))[0] for step in range(10, 20)])
    skipped.append(set(range(103)) - set(drawn.tolist()))
    assert skipped[0] != skipped[1]


def test_any_rows_of_a_batch_can_be_drawn_alone():
    sampler = Sampler(size=100, batch_size=16, seed=1)
    index, key = sampler.draw(9, np.arange(16))
    for rows in (np.arange(4, 8), np.array([15, 0])):
        some_index, some_key = sampler.draw(9, rows)
        np.testing.assert_array_equal(some_index, index[rows])
        np.testing.assert_array_equal(some_key, key[rows])


def test_keys_differ_between_examples_epochs_and_seeds():
    keys = [
        tuple(row)
        for seed in (0, 1)
        for epoch in range(3)
        for row in example_key(seed, np.uint32(epoch), np.arange(500)).tolist()
    ]
    assert len(set(keys)) == len(keys) == 3000


def test_the_finaliser_is_bijective_and_balanced():
    values = mix(np.arange(2**20, dtype=np.uint32))
    assert len(np.unique(values)) == 2**20
    ones = np.unpackbits(values.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 1e-3


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(UserError, match="global batch 65 does not fit the 64 training examples"):
        Sampler(size=64, batch_size=65, seed=0)
