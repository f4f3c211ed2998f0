"""Figures of classification, as shares in [0, 1]."""

import numpy as np


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest scores.

    Args:
        scores: float [N, classes], higher is likelier; of equal scores the lower class is first.
        labels: int [N].
        k: With k at or above the number of classes the result is 1.

    Returns:
        A share in [0, 1].
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    return float(np.mean(rank < k))


def top1_top5(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"top1", "top5"} of scores [N, classes] for labels [N]."""
    return {f"top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}
