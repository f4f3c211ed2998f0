"""Semantic textual similarity: does the cosine of two sentences rank pairs as people do?"""

from typing import Any

import numpy as np


def cosines(first: Any, second: Any) -> np.ndarray:
    """Cosine of each row of ``first`` with the same row of ``second``; 0 where a row is 0.

    Args:
        first: Vectors [N, D], a float array or a scipy.sparse array.
        second: Vectors of the same shape.

    Returns:
        float64 [N].
    """
    if isinstance(first, np.ndarray):
        first, second = first.astype(np.float64), second.astype(np.float64)
    products = [np.asarray((a * b).sum(axis=1)) for a, b in _pairs(first, second)]
    norm = np.sqrt(products[1] * products[2])
    ratio: np.ndarray = np.where(norm > 0, products[0] / np.where(norm > 0, norm, 1), 0.0)
    return ratio


def _pairs(first: Any, second: Any) -> tuple[tuple[Any, Any], ...]:
    return (first, second), (first, first), (second, second)


def sts(similarity: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Agreement of similarities with people's scores.

    Spearman's rank correlation of the cosine with the score, without a regressor, is the metric of
    SimCSE (arXiv 2104.08821, App. B) and of MTEB.

    Args:
        similarity: Cosine of every pair, float [N].
        score: Score of every pair, float [N], of at least two values.

    Returns:
        {"spearman", "pearson": correlations within [-1, 1], 0 if all similarities are the same,
        "pairs": N}.
    """
    import scipy.stats  # half a second, which every command would take

    if np.ptp(similarity) == 0:
        return {"spearman": 0.0, "pearson": 0.0, "pairs": len(score)}
    return {
        "spearman": float(scipy.stats.spearmanr(similarity, score).statistic),
        "pearson": float(scipy.stats.pearsonr(similarity, score).statistic),
        "pairs": len(score),
    }
