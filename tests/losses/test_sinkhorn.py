"""Assignments of SwAV: limits and invariants of Sinkhorn's algorithm."""

import functools

import jax
import numpy as np
import pytest

from cssl_jax import losses
from cssl_jax.errors import UserError
from helpers import methods_numpy

ROWS, K = 8, 8
SCORES = np.random.default_rng(0).uniform(-1, 1, size=(ROWS, K))


@functools.cache
def function(epsilon, iterations):
    return jax.jit(lambda x: losses.sinkhorn(x, epsilon=epsilon, iterations=iterations))


def assigned(scores, epsilon=0.05, iterations=3):
    with jax.enable_x64(True):
        return np.array(function(epsilon, iterations)(np.asarray(scores)))


def test_identical_scores_are_assigned_to_all_prototypes_equally():
    np.testing.assert_allclose(assigned(np.ones((ROWS, K))), 1 / K, rtol=1e-12)


def test_rows_sum_to_one_and_prototypes_are_used_equally_in_the_limit():
    few, many = assigned(SCORES), assigned(SCORES, 0.5, iterations=200)
    np.testing.assert_allclose(few.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(many.sum(axis=0), ROWS / K, rtol=1e-9)


def test_distinct_rows_are_assigned_to_prototypes_of_their_own():
    order = np.random.default_rng(1).permutation(K)
    np.testing.assert_allclose(assigned(np.eye(K)[order]), np.eye(K)[order], atol=1e-6)


def test_the_limit_does_not_change_with_offsets_of_rows_and_prototypes():
    rng = np.random.default_rng(2)
    moved = SCORES + 0.1 * rng.normal(size=(ROWS, 1)) + 0.1 * rng.normal(size=K)
    ours, theirs = (assigned(scores, 0.5, iterations=200) for scores in (moved, SCORES))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_assignments_move_with_rows_and_prototypes():
    rows, columns = np.random.default_rng(3).permutation(ROWS), np.arange(K)[::-1]
    moved = assigned(SCORES[rows][:, columns])
    np.testing.assert_allclose(moved, assigned(SCORES)[rows][:, columns], rtol=1e-9)


def test_large_scores_stay_finite_in_float32():
    found = function(0.05, 3)(1e4 * SCORES.astype(np.float32))
    assert np.all(np.isfinite(found))


def test_a_uniform_prediction_costs_the_logarithm_of_the_number_of_prototypes():
    loss = jax.jit(losses.swapped_prediction)(np.ones((ROWS, 2, K), np.float32))
    assert float(loss) == pytest.approx(np.log(K), rel=1e-6)


def test_a_queue_takes_part_as_further_rows_of_the_batch():
    rng = np.random.default_rng(1)
    queue = rng.uniform(-1, 1, size=(5, K))
    whole = assigned(np.concatenate([SCORES, queue]))[:ROWS]
    with jax.enable_x64(True):
        for counts, expected in ((True, whole), (False, assigned(SCORES))):
            found = jax.jit(losses.sinkhorn)(SCORES, queue=queue, queue_counts=counts)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.abs(whole - assigned(SCORES)).max() > 1e-3


def test_all_other_views_predict_the_assignments_of_the_first_two():
    rng = np.random.default_rng(2)
    rows, views, width = 6, 4, 5
    projections, prototypes = (
        x / np.linalg.norm(x, axis=-1, keepdims=True)
        for x in (rng.normal(size=(rows, views, width)), rng.normal(size=(K, width)))
    )
    with jax.enable_x64(True):
        found = jax.jit(losses.swapped_prediction)(projections @ prototypes.T)
    expected = methods_numpy.swav(projections, prototypes, 0.1, 0.05, 3)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(UserError, match="epsilon is 0"):
        losses.sinkhorn(SCORES, epsilon=0.0)
