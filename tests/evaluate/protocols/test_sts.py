"""Semantic textual similarity: ranks of cosines against people's scores."""

import numpy as np
import pytest
import scipy.sparse

from cssl_jax.evaluate.protocols.sts import cosines, sts


def test_cosines_are_those_of_loops():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)).astype(np.float32)
    first[2] = 0
    found = cosines(first, second)
    for i in range(5):
        norms = np.linalg.norm(first[i]) * np.linalg.norm(second[i])
        assert found[i] == pytest.approx(
            float(first[i] @ second[i]) / norms if norms else 0, abs=1e-6
        )
    sparse = cosines(scipy.sparse.csr_array(first), scipy.sparse.csr_array(second))
    np.testing.assert_allclose(sparse, found, atol=1e-6)


def test_only_ranks_count_for_spearman():
    """Three discordant neighbours of ten: rho = 1 - 6 * 2 * 3 / (10 * 99)."""
    score = np.arange(10.0)
    swapped = score[[1, 0, 3, 2, 5, 4, 6, 7, 8, 9]]
    found = sts(np.exp(swapped), score)
    assert found["spearman"] == pytest.approx(1 - 36 / 990)
    assert found["pearson"] < found["spearman"]
    assert found["pairs"] == 10


def test_constant_similarities_have_no_correlation():
    assert sts(np.ones(4), np.arange(4.0)) == {"spearman": 0.0, "pearson": 0.0, "pairs": 4}
