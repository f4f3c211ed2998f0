"""Weighted kNN classification by cosine similarity, for several k in one pass."""

import concurrent.futures
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, top_k_hits
from cssl_jax.evaluate.scores import Accuracy, KnnScores
from cssl_jax.losses.core.similarity import normalize_rows

BANK_BLOCK = 2**16  # maximum number of bank rows per matrix product
IN_FLIGHT = 2  # query blocks searched concurrently: XLA's top_k on a CPU uses one core only

_Nearest = tuple[jax.Array, jax.Array]  # similarities [Q, k] and rows int32 [Q, k]


def knn(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int | None = None,
    k: int | Sequence[int] = 200,
    temperature: float = 0.1,
) -> KnnScores:
    """Accuracy of the weighted kNN vote of ``knn_predict`` (arXiv 1805.01978, section 3.4).

    Args:
        bank: Features, float [M, D] of any norm. A zero row is similar to nothing.
        bank_labels: Class per bank row, int [M] in [0, num_classes).
        queries: Features, float [Q, D].
        query_labels: Class per query, int [Q] in [0, num_classes).
        num_classes: Number of classes; None: one more than the largest label.
        k: Number of voting neighbours, or several numbers, evaluated in one search. A k above M
            counts as M.
        temperature: Positive temperature of the vote. Small values trust the nearest neighbours.

    Returns:
        ``top1`` and ``top5`` of the first k, fractions in [0, 1], and that ``k``. With several k
        also ``by_k``, the accuracies per k.

    Raises:
        UserError: The features, labels, k or temperature are invalid.

    Example:
        >>> bank = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> found = knn(bank, np.array([0, 0, 1]), bank[:, ::-1], np.array([1, 1, 1]), k=1)
        >>> round(found.top1, 2), found.k
        (0.67, 1)
    """
    ks = (k,) if isinstance(k, int | np.integer) else tuple(k)
    if num_classes is None:
        labels = np.concatenate([np.ravel(bank_labels), np.ravel(query_labels)])
        num_classes = int(labels.max(initial=0)) + 1
    hits = knn_hits(
        bank,
        bank_labels,
        queries,
        query_labels,
        num_classes=num_classes,
        ks=ks,
        temperature=temperature,
    )
    return knn_scores(hits, min(ks[0], len(bank)), several=not isinstance(k, int | np.integer))


def knn_scores(hits: dict[int, np.ndarray], k: int, *, several: bool) -> KnnScores:
    """Accuracies from the hits bool [2, Q] per number of neighbours, see ``knn_hits``.

    Args:
        hits: Hits by the number of neighbours.
        k: Number of neighbours whose accuracies are the main ones, a key of ``hits``.
        several: Whether the result has the accuracies for every number of neighbours.
    """
    by_k = {
        number: Accuracy(top1=float(np.mean(top1)), top5=float(np.mean(top5)))
        for number, (top1, top5) in sorted(hits.items())
    }
    named = {str(number): accuracy for number, accuracy in by_k.items()}
    return KnnScores(**by_k[k], k=k, by_k=named if several else None)


def knn_hits(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, np.ndarray]:
    """Queries classified correctly, per k; arguments as in ``knn``.

    Returns:
        {k: bool [2, Q]}: True in row 0 where the label has the highest score, in row 1 where it is
        among the five highest. A k above the size of the bank is replaced by that size.

    Raises:
        UserError: The features, labels, a k or the temperature are invalid.
    """
    query_labels = checked_labels(query_labels, queries, num_classes=num_classes, name="query")
    blocks: dict[int, list[np.ndarray]] = {}
    start = 0
    for scores_by_k in _score_blocks(bank, bank_labels, queries, num_classes, ks, temperature, 512):
        rows = len(next(iter(scores_by_k.values())))
        labels = query_labels[start : start + rows]
        start += rows
        for k, scores in scores_by_k.items():
            hits = np.stack([top_k_hits(scores, labels, top) for top in (1, 5)])
            blocks.setdefault(k, []).append(hits)
    return {k: np.concatenate(hits, axis=1) for k, hits in blocks.items()}


def knn_predict(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    block_size: int = 512,
) -> np.ndarray:
    """Votes of the k nearest, weighted by exp(similarity / temperature) (arXiv 1805.01978, 3.4).

    Args:
        bank: Features, float [M, D] of any norm. A zero row is similar to nothing.
        bank_labels: Class per bank row, int [M] in [0, num_classes).
        queries: Features, float [Q, D].
        num_classes: Number of classes, the width of the result.
        k: Number of voting neighbours; above M it counts as M.
        temperature: Positive temperature of the vote. Small values trust the nearest neighbours.
        block_size: Number of queries searched at a time, see ``neighbours``.

    Returns:
        Scores [Q, num_classes] in the dtype of the similarities (float32, or float64 for float64
        features under x64). Every row is scaled so that the nearest neighbour has weight 1.

    Raises:
        UserError: The features, labels, k, temperature or block_size are invalid.
    """
    blocks = _score_blocks(bank, bank_labels, queries, num_classes, (k,), temperature, block_size)
    return np.concatenate([scores for by_k in blocks for scores in by_k.values()])


def neighbours(
    bank: np.ndarray, queries: np.ndarray, *, k: int, block_size: int = 512
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Exact search for the k most similar rows of a bank, one block of queries at a time.

    The search needs a few times block_size x 65,536 floats of memory in addition to the features,
    independent of their number.

    Args:
        bank: Features, float [M, D] of any norm. A zero row is similar to nothing.
        queries: Features, float [Q, D].
        k: Number of neighbours, at most M.
        block_size: Number of queries searched at a time.

    Yields:
        For the next r queries, cosine similarities, float [r, k] in descending order, and numbers
        of bank rows, int32 [r, k]. Of equally similar rows the earlier one comes first.

    Raises:
        UserError: The features, k or block_size are invalid.
    """
    _check_queries(bank, queries)
    for name, value in (("k", k), ("block_size", block_size)):
        if not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    if k > len(bank):
        raise UserError(f"k is {k}, but the bank has {len(bank)} rows; give at most {len(bank)}")
    count = -(-len(bank) // BANK_BLOCK)
    size = -(-len(bank) // count)
    blocks = _unit_blocks(jnp.asarray(bank), count, size)
    rows = min(block_size, len(queries))

    def search(start: int) -> tuple[np.ndarray, np.ndarray]:
        block = queries[start : start + rows]
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))  # one compiled shape
        padded_result = _nearest(blocks, padded, len(bank), k=k)
        similarity, index = (np.asarray(values)[: len(block)] for values in padded_result)
        return similarity, index

    yield search(0)  # outside the pool, so that the search compiles once
    starts = range(rows, len(queries), rows)
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        pending = [pool.submit(search, start) for start in starts[:IN_FLIGHT]]
        for start in [*starts[IN_FLIGHT:], *[None] * len(pending)]:
            yield pending.pop(0).result()
            if start is not None:
                pending.append(pool.submit(search, start))


@functools.partial(jax.jit, static_argnames=("count", "size"))
def _unit_blocks(bank: jax.Array, count: int, size: int) -> jax.Array:
    """Unit-norm bank rows as zero-padded blocks [count, size, D]."""
    padding = ((0, count * size - len(bank)), (0, 0))
    return jnp.pad(normalize_rows(bank), padding).reshape(count, size, -1)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(blocks: jax.Array, queries: jax.Array, total: int, *, k: int) -> _Nearest:
    """Similarities [Q, k] and rows int32 [Q, k] of the nearest among the first ``total`` rows."""
    count, size, _ = blocks.shape
    unit = normalize_rows(queries)

    def nearest_of(block: jax.Array, first: jax.Array | int) -> _Nearest:
        similarity = jnp.matmul(unit, block.T, precision=jax.lax.Precision.HIGHEST)
        if count > 1:  # the last block is padded
            inside = first + jnp.arange(size) < total
            similarity = jnp.where(inside, similarity, -jnp.inf)
        values, index = jax.lax.top_k(similarity, min(k, size))
        return values, index + first

    def merge(best: _Nearest, block: tuple[jax.Array, jax.Array]) -> tuple[_Nearest, None]:
        # The earlier rows stand first: top_k prefers the first of equal values.
        pairs = zip(best, nearest_of(*block), strict=True)
        values, index = (jnp.concatenate(pair, axis=1) for pair in pairs)
        values, order = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(index, order, axis=1)), None

    if count == 1:
        return nearest_of(blocks[0], 0)
    dtype = jnp.result_type(unit, blocks)
    none = jnp.full((len(queries), k), -jnp.inf, dtype), jnp.full((len(queries), k), -1, jnp.int32)
    best, _ = jax.lax.scan(merge, none, (blocks, size * jnp.arange(count, dtype=jnp.int32)))
    return best


def _score_blocks(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
    block_size: int,
) -> Iterator[dict[int, np.ndarray]]:
    """Yields, per block of r queries, the votes [r, num_classes] by k."""
    labels = checked_labels(bank_labels, bank, num_classes=num_classes, name="bank")
    _check_queries(bank, queries)
    for name, value in (("k", min(ks, default=0)), ("temperature", temperature)):
        if not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    ks = sorted({min(k, len(bank)) for k in ks})
    for similarity, index in neighbours(bank, queries, k=ks[-1], block_size=block_size):
        # exp((s - s_max) / t) = exp(s / t) / exp(s_max / t): one positive factor for all weights of
        # a query. The order of its classes stays the same, and no exponent is above 0.
        weights = np.exp((similarity - similarity[:, :1]) / similarity.dtype.type(temperature))
        cells = num_classes * np.arange(len(index))[:, None] + labels[index]  # (query, class)
        votes = np.zeros(num_classes * len(index))
        scores_by_k: dict[int, np.ndarray] = {}
        # Neighbours are sorted, so that a larger k only adds the votes of ranks low to high - 1.
        for low, high in zip([0, *ks], ks, strict=False):
            ranks = slice(low, high)
            votes = votes + np.bincount(
                cells[:, ranks].ravel(), weights[:, ranks].ravel(), len(votes)
            )
            scores_by_k[high] = votes.reshape(-1, num_classes).astype(similarity.dtype)
        yield scores_by_k


def _check_queries(bank: np.ndarray, queries: np.ndarray) -> None:
    if queries.ndim != 2 or queries.shape[1] != bank.shape[1] or not len(queries):
        raise UserError(
            f"query features have shape {queries.shape}, the bank has {bank.shape}; "
            "give [Q, D] of the bank's width with at least one row"
        )


def nearest(features: np.ndarray, k: int, *, block_size: int = 1024) -> np.ndarray:
    """For every row, the k other rows with the largest cosine similarity, nearest first.

    Args:
        features: Features, float [N, D]. A zero row is similar to nothing.
        k: Number of neighbours, below N.
        block_size: Number of rows searched at a time, see ``neighbours``.

    Returns:
        Row numbers, int64 [N, k]. Of equally similar rows the earlier one comes first.

    Raises:
        UserError: ``features`` is no matrix, or k is not in [1, N - 1].
    """
    if features.ndim != 2 or not 0 < k < len(features):
        raise UserError(f"{k} neighbours of features {features.shape}; give [N, D] with 0 < k < N")
    blocks = neighbours(features, features, k=k + 1, block_size=block_size)
    index = np.concatenate([block for _, block in blocks]).astype(np.int64)
    is_other = index != np.arange(len(index))[:, None]
    # A row that is zero or has duplicates may be missing from its own list: drop the last one then.
    is_other[is_other.all(axis=1), -1] = False
    others: np.ndarray = index[is_other]
    return others.reshape(-1, k)
