"""Retrieval by cosine similarity: recall@k and mean average precision by class."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels
from cssl_jax.evaluate.scores import RetrievalScores
from cssl_jax.losses.core.similarity import normalize_rows

_BLOCK_FLOATS = 2**23  # maximum number of similarities per block of queries


def retrieval(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int,
    recall_at: Sequence[int] = (1, 5, 10),
) -> RetrievalScores:
    """Recall@k and mean average precision of queries against a gallery.

    Recall@k is the fraction of queries with at least one row of their class among the k most
    similar ones (arXiv 1511.06452). Average precision ranks the whole gallery. It is the mean,
    over all gallery rows of the query's class, of the precision at their rank. Equally similar rows
    share the worst rank, as in scikit-learn's ``average_precision_score``. The order of the gallery
    therefore cannot help a collapsed encoder.

    Args:
        gallery: Features, float [M, D] of any norm. A zero row is similar to nothing.
        gallery_labels: Class per gallery row, int [M] in [0, num_classes).
        queries: Features, float [Q, D].
        query_labels: Class per query, int [Q] in [0, num_classes). Queries whose class is not in
            the gallery are excluded.
        num_classes: Number of classes C.
        recall_at: Values of k, at least 1. Values above M count as M.

    Returns:
        ``recall`` per k and ``map``, fractions in [0, 1], and ``queries``, the number of queries
        that count. The metrics are None if no query counts.

    Raises:
        UserError: The features or labels are invalid, or a k is below 1.

    Example:
        >>> import numpy as np
        >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> labels = np.array([0, 1, 1])
        >>> found = retrieval(
        ...     gallery, labels, gallery[1:2], labels[1:2], num_classes=2, recall_at=(1,)
        ... )
        >>> found.recall, round(found.map, 4)  # precision 1 and 2/3 at the ranks of class 1
        ({'1': 1.0}, 0.8333)
    """
    labels = checked_labels(gallery_labels, gallery, num_classes=num_classes, name="gallery")
    query_labels = checked_labels(query_labels, queries, num_classes=num_classes, name="query")
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query features are {queries.shape[1]} wide, the gallery's {gallery.shape[1]}; "
            "give both from one encoder"
        )
    if not recall_at or min(recall_at) < 1:
        raise UserError(f"recall_at is {tuple(recall_at)}; give numbers of at least 1")
    ks = sorted({min(k, len(labels)) for k in recall_at})
    used = np.flatnonzero(np.isin(query_labels, labels))
    if not len(used):
        # ``from_json`` keeps the null, so that results.json has the key.
        return RetrievalScores.from_json(
            {"recall": dict.fromkeys(map(str, ks)), "map": None, "queries": 0}
        )
    # Sorted by class, so that a block of queries has few classes.
    used = used[np.argsort(query_labels[used], kind="stable")]
    class_rows = [np.flatnonzero(labels == label) for label in range(num_classes)]
    unit = normalize_rows(jnp.asarray(gallery))
    rows = max(1, min(256, _BLOCK_FLOATS // len(labels)))
    first_ranks, precisions = [], []

    def evaluate_block(start: int) -> tuple[list[int], list[float]]:
        block = used[start : start + rows]
        padded = np.pad(queries[block], ((0, rows - len(block)), (0, 0)))  # one compiled shape
        similarity = np.asarray(_similarity(unit, padded))
        pairs = [
            _rank(row, row[class_rows[label]])
            for row, label in zip(similarity, query_labels[block], strict=False)
        ]
        return [first for first, _ in pairs], [precision for _, precision in pairs]

    for block_ranks, block_precisions in map_ahead(evaluate_block, range(0, len(used), rows)):
        first_ranks += block_ranks
        precisions += block_precisions
    ranks = np.array(first_ranks)
    return RetrievalScores(
        recall={str(k): float(np.mean(ranks <= k)) for k in ks},
        map=float(np.mean(precisions)),
        queries=len(used),
    )


@jax.jit
def _similarity(unit: jax.Array, queries: jax.Array) -> jax.Array:
    """Cosine similarities [Q, M] of queries [Q, D] and unit-norm gallery rows [M, D]."""
    return jnp.matmul(normalize_rows(queries), unit.T, precision=jax.lax.Precision.HIGHEST)


def _rank(all_scores: np.ndarray, relevant: np.ndarray) -> tuple[int, float]:
    """Rank of the first relevant row (from 1) and average precision of one query.

    Args:
        all_scores: Similarity per gallery row, float [M].
        relevant: Similarities of the rows of the query's class, a subset of ``all_scores``.
    """
    if not np.isfinite(all_scores).all():
        return len(all_scores) + 1, 0.0  # non-finite features retrieve nothing
    # Sorting the values is several times as fast as an argsort.
    ascending, hits = np.sort(all_scores), np.sort(relevant)
    # Number of rows at least as similar as each relevant row: in the gallery, and in the class.
    among_all = len(ascending) - np.searchsorted(ascending, hits, side="left")
    among_hits = len(hits) - np.searchsorted(hits, hits, side="left")
    return int(among_all[-1]), float(np.mean(among_hits / among_all))
