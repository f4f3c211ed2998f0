"""Retrieval by cosine similarity: is what is most similar of the same class?"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels
from cssl_jax.losses.core.similarity import unit_length

_BLOCK_FLOATS = 2**23  # similarities that are held at once


def retrieval(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int,
    recall_at: Sequence[int] = (1, 5, 10),
) -> dict[str, Any]:
    """Recall@k and mean average precision of queries among a gallery.

    Recall@k is the share of queries with at least one of their class among the k most similar
    (arXiv 1511.06452). Average precision is the mean, over all of the query's class,
    of the precision at their rank, the whole gallery ranked; equals share a rank, as in
    scikit-learn's ``average_precision_score``, so that a collapsed encoder gains nothing by order.

    Args:
        gallery: Features [M, D] of any length; a zero row is similar to nothing.
        gallery_labels: int [M] in [0, num_classes).
        queries: Features [Q, D].
        query_labels: int [Q]; queries whose class is not in the gallery take no part.
        num_classes: C.
        recall_at: The ks; beyond M they are M.

    Returns:
        {"recall": {"K": share in [0, 1]}, "map", "queries": how many took part}; None for figures
        where no query did.

    Raises:
        UserError: Features or labels do not fit, or a k is below 1.
    """
    labels = checked_labels(gallery_labels, gallery, num_classes=num_classes, name="gallery")
    asked = checked_labels(query_labels, queries, num_classes=num_classes, name="query")
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query features are {queries.shape[1]} wide, the gallery's {gallery.shape[1]}; "
            "give both from one encoder"
        )
    if not recall_at or min(recall_at) < 1:
        raise UserError(f"recall_at is {tuple(recall_at)}; give numbers from 1 on")
    ks = sorted({min(k, len(labels)) for k in recall_at})
    known = np.flatnonzero(np.isin(asked, labels))
    if not len(known):
        return {"recall": dict.fromkeys(map(str, ks)), "map": None, "queries": 0}
    # Of one class after the other, so that a block has few classes.
    known = known[np.argsort(asked[known], kind="stable")]
    of_class = [np.flatnonzero(labels == label) for label in range(num_classes)]
    unit = unit_length(jnp.asarray(gallery))
    rows = max(1, min(256, _BLOCK_FLOATS // len(labels)))
    first_ranks, precisions = [], []

    def judge(start: int) -> tuple[list[int], list[float]]:
        part = known[start : start + rows]
        padded = np.pad(queries[part], ((0, rows - len(part)), (0, 0)))  # one compiled shape
        similarity = np.asarray(_similarity(unit, padded))
        pairs = [
            _rank(row, row[of_class[label]])
            for row, label in zip(similarity, asked[part], strict=False)
        ]
        return [first for first, _ in pairs], [precision for _, precision in pairs]

    for firsts, found in ahead(judge, range(0, len(known), rows)):
        first_ranks += firsts
        precisions += found
    ranks = np.array(first_ranks)
    return {
        "recall": {str(k): float(np.mean(ranks <= k)) for k in ks},
        "map": float(np.mean(precisions)),
        "queries": len(known),
    }


@jax.jit
def _similarity(unit: jax.Array, queries: jax.Array) -> jax.Array:
    return jnp.matmul(unit_length(queries), unit.T, precision=jax.lax.Precision.HIGHEST)


def _rank(all_scores: np.ndarray, relevant: np.ndarray) -> tuple[int, float]:
    """(rank of the first relevant, from 1; average precision) of one query."""
    if not np.isfinite(all_scores).all():
        return len(all_scores) + 1, 0.0  # a broken encoder finds nothing
    # Sorting values alone is several times as fast as an order of them.
    ascending, hits = np.sort(all_scores), np.sort(relevant)
    # At least as similar as each relevant one: among all, and among the relevant.
    among_all = len(ascending) - np.searchsorted(ascending, hits, side="left")
    among_hits = len(hits) - np.searchsorted(hits, hits, side="left")
    return int(among_all[-1]), float(np.mean(among_hits / among_all))
