"""Nearest neighbours within one set of features."""

import numpy as np

from cssl_jax.errors import UserError


def nearest(features: np.ndarray, k: int, *, block_size: int = 1024) -> np.ndarray:
    """The k other rows with the largest cosine similarity, nearest first.

    Args:
        features: float [N, D]; a zero row is similar to nothing.
        k: Below N.
        block_size: Rows at a time: memory is block_size x N floats.

    Returns:
        int64 [N, k]; of equally near rows the first.

    Raises:
        UserError: There are not so many other rows.
    """
    if features.ndim != 2 or not 0 < k < len(features):
        raise UserError(f"{k} neighbours of features {features.shape}; give [N, D] with 0 < k < N")
    x = np.asarray(features, np.float32)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    found = []
    for start in range(0, len(unit), block_size):
        similarity = unit[start : start + block_size] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        some = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(some, order, axis=1))
    return np.concatenate(found)
