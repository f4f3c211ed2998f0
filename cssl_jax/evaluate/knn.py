"""Weighted k-nearest-neighbour classification by cosine similarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.metrics import checked_labels, top1_top5
from cssl_jax.losses.similarity import unit_length


def knn(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> dict[str, float]:
    """{"top1", "top5"} of ``knn_predict`` as shares in [0, 1]; arguments and errors as there.

    ``query_labels`` are int [Q] in [0, num_classes).
    """
    query_labels = checked_labels(query_labels, queries, num_classes=num_classes, name="query")
    scores = knn_predict(
        bank, bank_labels, queries, num_classes=num_classes, k=k, temperature=temperature
    )
    return top1_top5(scores, query_labels)


def knn_predict(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    block_size: int = 1024,
) -> np.ndarray:
    """Votes of the k nearest, weighted by exp(similarity / temperature) (arXiv 1805.01978, 3.4).

    Args:
        bank: Features [M, D] of any length; a zero row is similar to nothing.
        bank_labels: int [M] in [0, num_classes).
        queries: Features [Q, D].
        num_classes: Width of the result.
        k: Neighbours that vote; at most M do.
        temperature: Positive; small values trust the very nearest.
        block_size: Queries at a time: memory is block_size x M floats, never Q x M.

    Returns:
        Scores float32 [Q, num_classes], scaled a row so that the nearest neighbour weighs 1.

    Raises:
        UserError: Features, labels, k, temperature or block_size do not fit.
    """
    bank_labels = checked_labels(bank_labels, bank, num_classes=num_classes, name="bank")
    if queries.ndim != 2 or queries.shape[1] != bank.shape[1] or not len(queries):
        raise UserError(
            f"query features have shape {queries.shape} beside a bank of {bank.shape}; "
            "give [Q, D] of the bank's width with at least one row"
        )
    for name, value in (("k", k), ("temperature", temperature), ("block_size", block_size)):
        if not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    unit_bank = unit_length(jnp.asarray(bank))
    labels = jnp.asarray(bank_labels)
    block = min(block_size, len(queries))
    parts = []
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        padded = np.pad(part, ((0, block - len(part)), (0, 0)))  # one compiled shape
        votes = _vote(unit_bank, labels, padded, temperature, k=min(k, len(bank)), num=num_classes)
        parts.append(np.asarray(votes)[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("k", "num"))
def _vote(
    bank: jax.Array, labels: jax.Array, queries: jax.Array, temperature: float, *, k: int, num: int
) -> jax.Array:
    similarity = jnp.matmul(unit_length(queries), bank.T, precision=jax.lax.Precision.HIGHEST)
    nearest, index = jax.lax.top_k(similarity, k)
    # exp((s - s_max) / t) = exp(s / t) / exp(s_max / t): one positive factor for all weights of a
    # query, so that the order of its classes is the same, and no exponent is above 0.
    # jnp.max, not the first column: XLA would fold that slice into top_k and sort all of the bank,
    # which takes ten times as long.
    weights = jnp.exp((nearest - jnp.max(nearest, axis=1, keepdims=True)) / temperature)
    rows = jnp.arange(len(queries))[:, None]
    return jnp.zeros((len(queries), num), weights.dtype).at[rows, labels[index]].add(weights)
