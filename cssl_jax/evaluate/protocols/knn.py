"""Weighted kNN classification by cosine similarity, for any list of k in one pass."""

import concurrent.futures
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.accuracy import checked_labels, top_k_hits
from cssl_jax.losses.core.similarity import unit_length

BANK_BLOCK = 2**16  # rows of the bank that queries are compared with at a time
IN_FLIGHT = 2  # blocks of queries at once: XLA's top_k on a CPU keeps one core busy


def knn(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int | None = None,
    k: int | Sequence[int] = 200,
    temperature: float = 0.1,
) -> dict[str, Any]:
    """Accuracy of ``knn_predict``; arguments and errors as there.

    Args:
        bank: As there.
        bank_labels: As there.
        queries: As there.
        query_labels: int [Q] in [0, num_classes).
        num_classes: As there; None is one more than the largest label of both.
        k: One number, or several: all come from the same neighbours.
        temperature: As there.

    Returns:
        {"top1", "top5"}, shares in [0, 1], of the first k; of several, "by_k" besides:
        {"K": {"top1", "top5"}} of each, a k beyond the bank's size being the bank's size.
    """
    ks = (k,) if isinstance(k, int | np.integer) else tuple(k)
    if num_classes is None:
        known = np.concatenate([np.ravel(bank_labels), np.ravel(query_labels)])
        num_classes = int(known.max(initial=0)) + 1
    hits = knn_hits(
        bank,
        bank_labels,
        queries,
        query_labels,
        num_classes=num_classes,
        ks=ks,
        temperature=temperature,
    )
    first: dict[str, Any] = shares(hits[min(ks[0], len(bank))])
    if isinstance(k, int | np.integer):
        return first
    return {**first, "by_k": {str(number): shares(hits[number]) for number in sorted(hits)}}


def shares(hits: np.ndarray) -> dict[str, float]:
    """{"top1", "top5"} of one k's entry of ``knn_hits``."""
    return {f"top{top}": float(np.mean(hit)) for top, hit in zip((1, 5), hits, strict=True)}


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
    """Which queries are right, by k: bool [2, Q], among the first and among the first five."""
    query_labels = checked_labels(query_labels, queries, num_classes=num_classes, name="query")
    parts: dict[int, list[np.ndarray]] = {}
    start = 0
    for by_k in _scores(bank, bank_labels, queries, num_classes, ks, temperature, 512):
        rows = len(next(iter(by_k.values())))
        labels = query_labels[start : start + rows]
        start += rows
        for k, scores in by_k.items():
            pair = np.stack([top_k_hits(scores, labels, top) for top in (1, 5)])
            parts.setdefault(k, []).append(pair)
    return {k: np.concatenate(pairs, axis=1) for k, pairs in parts.items()}


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
        bank: Features [M, D] of any length; a zero row is similar to nothing.
        bank_labels: int [M] in [0, num_classes).
        queries: Features [Q, D].
        num_classes: Width of the result.
        k: Neighbours that vote; at most M do.
        temperature: Positive; small values trust the very nearest.
        block_size: Queries at a time, see ``neighbours``.

    Returns:
        Scores float32 [Q, num_classes], scaled a row so that the nearest neighbour weighs 1.

    Raises:
        UserError: Features, labels, k, temperature or block_size do not fit.
    """
    blocks = _scores(bank, bank_labels, queries, num_classes, (k,), temperature, block_size)
    return np.concatenate([scores for by_k in blocks for scores in by_k.values()])


def neighbours(
    bank: np.ndarray, queries: np.ndarray, *, k: int, block_size: int = 512
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The k most similar rows of a bank, exactly, a block of queries at a time.

    Memory beside the features is a few times block_size x 65,536 floats, whatever their number.

    Args:
        bank: Features [M, D] of any length; a zero row is similar to nothing.
        queries: Features [Q, D].
        k: Neighbours, at most M.
        block_size: Queries at a time.

    Yields:
        Cosine similarities, float [r, k], falling, and rows of the bank, int32 [r, k], of the next
        r queries; of equals the earlier row comes first.

    Raises:
        UserError: Features, k or block_size do not fit.
    """
    _check_queries(bank, queries)
    for name, value in (("k", k), ("block_size", block_size)):
        if not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    if k > len(bank):
        raise UserError(f"k is {k} beside a bank of {len(bank)} rows; give at most as many")
    count = -(-len(bank) // BANK_BLOCK)
    size = -(-len(bank) // count)
    blocks = _unit_blocks(jnp.asarray(bank), count, size)
    rows = min(block_size, len(queries))

    def search(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = queries[start : start + rows]
        padded = np.pad(part, ((0, rows - len(part)), (0, 0)))  # one compiled shape
        found = _nearest(blocks, padded, len(bank), k=k)
        similarity, index = (np.asarray(values)[: len(part)] for values in found)
        return similarity, index

    yield search(0)  # alone: it compiles
    starts = range(rows, len(queries), rows)
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        waiting = [pool.submit(search, start) for start in starts[:IN_FLIGHT]]
        for start in [*starts[IN_FLIGHT:], *[None] * len(waiting)]:
            yield waiting.pop(0).result()
            if start is not None:
                waiting.append(pool.submit(search, start))


@functools.partial(jax.jit, static_argnames=("count", "size"))
def _unit_blocks(bank: jax.Array, count: int, size: int) -> jax.Array:
    padding = ((0, count * size - len(bank)), (0, 0))
    return jnp.pad(unit_length(bank), padding).reshape(count, size, -1)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(
    blocks: jax.Array, queries: jax.Array, total: int, *, k: int
) -> tuple[jax.Array, jax.Array]:
    count, size, _ = blocks.shape
    unit = unit_length(queries)

    def nearest_of(block: jax.Array, first: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        similarity = jnp.matmul(unit, block.T, precision=jax.lax.Precision.HIGHEST)
        if count > 1:  # the last block is padded
            inside = first + jnp.arange(size) < total
            similarity = jnp.where(inside, similarity, -jnp.inf)
        values, index = jax.lax.top_k(similarity, min(k, size))
        return values, index + first

    def merge(best: tuple, block: tuple) -> tuple[tuple, None]:
        found = nearest_of(*block)
        values, index = (jnp.concatenate(pair, axis=1) for pair in zip(best, found, strict=True))
        values, order = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(index, order, axis=1)), None

    if count == 1:
        return nearest_of(blocks[0], 0)
    dtype = jnp.result_type(unit, blocks)
    none = jnp.full((len(queries), k), -jnp.inf, dtype), jnp.full((len(queries), k), -1, jnp.int32)
    best, _ = jax.lax.scan(merge, none, (blocks, size * jnp.arange(count, dtype=jnp.int32)))
    return best


def _scores(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
    block_size: int,
) -> Iterator[dict[int, np.ndarray]]:
    """Votes [r, num_classes] by k, of one block of queries after the other."""
    labels = checked_labels(bank_labels, bank, num_classes=num_classes, name="bank")
    _check_queries(bank, queries)
    for name, value in (("k", min(ks, default=0)), ("temperature", temperature)):
        if not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    ks = sorted({min(k, len(bank)) for k in ks})
    for similarity, index in neighbours(bank, queries, k=ks[-1], block_size=block_size):
        # exp((s - s_max) / t) = exp(s / t) / exp(s_max / t): one positive factor for all weights of
        # a query, so that the order of its classes is the same, and no exponent is above 0.
        weights = np.exp((similarity - similarity[:, :1]) / similarity.dtype.type(temperature))
        cells = num_classes * np.arange(len(index))[:, None] + labels[index]
        votes = np.zeros(num_classes * len(index))
        by_k: dict[int, np.ndarray] = {}
        for low, high in zip([0, *ks], ks, strict=False):
            chosen = slice(low, high)
            votes = votes + np.bincount(
                cells[:, chosen].ravel(), weights[:, chosen].ravel(), len(votes)
            )
            by_k[high] = votes.reshape(-1, num_classes).astype(similarity.dtype)
        yield by_k


def _check_queries(bank: np.ndarray, queries: np.ndarray) -> None:
    if queries.ndim != 2 or queries.shape[1] != bank.shape[1] or not len(queries):
        raise UserError(
            f"query features have shape {queries.shape} beside a bank of {bank.shape}; "
            "give [Q, D] of the bank's width with at least one row"
        )


def nearest(features: np.ndarray, k: int, *, block_size: int = 1024) -> np.ndarray:
    """The k other rows with the largest cosine similarity, nearest first.

    Args:
        features: float [N, D]; a zero row is similar to nothing.
        k: Below N.
        block_size: Rows at a time, see ``neighbours``.

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
