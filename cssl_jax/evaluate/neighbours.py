"""Nearest neighbours within one set of features."""

import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.knn import neighbours


def nearest(features: np.ndarray, k: int, *, block_size: int = 1024) -> np.ndarray:
    """The k other rows with the largest cosine similarity, nearest first.

    Args:
        features: float [N, D]; a zero row is similar to nothing.
        k: Below N.
        block_size: Rows at a time, see ``knn.neighbours``.

    Returns:
        int64 [N, k]; of equally near rows the first.

    Raises:
        UserError: There are not so many other rows.
    """
    if features.ndim != 2 or not 0 < k < len(features):
        raise UserError(f"{k} neighbours of features {features.shape}; give [N, D] with 0 < k < N")
    blocks = neighbours(features, features, k=k + 1, block_size=block_size)
    found = np.concatenate([index for _, index in blocks]).astype(np.int64)
    others = found != np.arange(len(found))[:, None]
    others[others.all(axis=1), -1] = False  # a row that equals others, or zero, may not find itself
    return found[others].reshape(-1, k)
