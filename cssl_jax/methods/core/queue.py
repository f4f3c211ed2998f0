"""Queues of unit rows in the order of the global batch, for negatives or nearest neighbours."""

import jax
import jax.numpy as jnp

from cssl_jax.losses.core.similarity import normalize_rows

Queue = dict[str, jax.Array]


def start_queue(key: jax.Array, rows: int, width: int) -> Queue:
    """A queue of random directions: {"rows": [rows, width] of norm 1, "pointer": int32 scalar}.

    Args:
        key: Random key of the directions.
        rows: Number of rows K.
        width: Width d of a row.
    """
    drawn = jax.random.normal(key, (rows, width), jnp.float32)
    return {"rows": normalize_rows(drawn), "pointer": jnp.zeros((), jnp.int32)}


def enqueue(queue: Queue, new: jax.Array) -> Queue:
    """The queue with the oldest rows replaced, exact at the end of the array and for N > K.

    Args:
        queue: Queue of K rows.
        new: Rows in the order of the global batch, see ``Context.global_rows``; float [N, d], any
            norm.
    """
    rows, pointer = queue["rows"], queue["pointer"]
    size, skipped = len(rows), max(len(new) - len(queue["rows"]), 0)
    kept = normalize_rows(new[skipped:]).astype(rows.dtype)
    places = (pointer + skipped + jnp.arange(len(kept), dtype=pointer.dtype)) % size
    return {
        "rows": rows.at[places].set(kept),
        "pointer": ((pointer + len(new)) % size).astype(pointer.dtype),
    }
