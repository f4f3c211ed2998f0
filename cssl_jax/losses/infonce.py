"""InfoNCE: queries against keys, one modality against another, with a queue or a sample."""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.data.sampler import mix, permute
from cssl_jax.errors import UserError
from cssl_jax.losses.core.row_sums import Terms, sum_rows
from cssl_jax.losses.core.similarity import (
    Contrast,
    TileSize,
    check_pairs,
    check_positive,
    choose_tile,
    first_row,
    gather,
    unit_length,
)

Summed = tuple[jax.Array, jax.Array, jax.Array]  # log-sum-exp, expected, largest negative; [n]


def info_nce(
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
    queue: jax.Array | None = None,
    in_batch: bool = True,
    num_negatives: int | None = None,
    example_keys: jax.Array | None = None,
) -> jax.Array:
    """InfoNCE (arXiv 1807.03748, eq. 4), one direction: each query finds its key among all keys.

    MoCo (arXiv 1911.05722, eq. 1) is ``queue`` with ``in_batch=False`` and keys whose gradient the
    caller stops.

    Args:
        queries: This device's rows, [n, d]; of any length.
        keys: [n, d]; row i is the positive of query i, the other keys of the global batch are its
            negatives.
        temperature: tau > 0, a number or a traced scalar.
        axis_name: Mapped axis that the batch is split over, or None.
        tile_size: See ``choose_tile``.
        queue: [Q, d], more negatives, equal on every device; without gradient.
        in_batch: Other keys of the batch are negatives.
        num_negatives: Sum over so many negatives, drawn for each query without replacement from
            those of batch and queue; None takes all. It holds [n, num_negatives] similarities.
        example_keys: uint32 [n, 2], which the draws depend on alone (``batch["key"]``).

    Returns:
        Scalar, this device's share: the mean over its n queries.

    Raises:
        UserError: Shapes differ, there is nothing to contrast with, or too few to draw from.
    """
    seen = query_contrast(
        queries,
        keys,
        temperature=temperature,
        axis_name=axis_name,
        tile_size=tile_size,
        queue=queue,
        in_batch=in_batch,
        num_negatives=num_negatives,
        example_keys=example_keys,
    )
    return seen.mean_log_sum_exp - jnp.mean(seen.positive)


def clip(
    first: jax.Array,
    second: jax.Array,
    *,
    temperature: jax.Array | float = 0.07,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """InfoNCE between two modalities, both ways (CLIP, arXiv 2103.00020, figure 3).

    Args:
        first: One modality's rows of this device, [n, d].
        second: The other's, [n, d]; row i belongs to row i of ``first``.
        temperature: CLIP learns it, from 0.07 on.
        axis_name: As in ``info_nce``.
        tile_size: As in ``info_nce``.

    Returns:
        Scalar, this device's share: the mean of the two directions.
    """
    there = info_nce(
        first, second, temperature=temperature, axis_name=axis_name, tile_size=tile_size
    )
    back = info_nce(
        second, first, temperature=temperature, axis_name=axis_name, tile_size=tile_size
    )
    return (there + back) / 2


def query_contrast(
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array | float,
    axis_name: str | None = None,
    tile_size: TileSize = None,
    queue: jax.Array | None = None,
    in_batch: bool = True,
    num_negatives: int | None = None,
    example_keys: jax.Array | None = None,
) -> Contrast:
    """What ``info_nce`` and its metrics are read from; the same arguments and errors."""
    check_pairs(queries, keys, "queries and keys")
    check_positive(temperature=temperature)
    if not in_batch and queue is None:
        raise UserError("in_batch=False leaves no negatives; give a queue")
    queries, keys = unit_length(queries), unit_length(keys)
    scale = 1 / jnp.asarray(temperature, queries.dtype)
    positive = jnp.sum(queries * keys, axis=-1) * scale
    own = first_row(len(queries), axis_name) + jnp.arange(len(queries), dtype=jnp.int32)
    everyone = gather(keys, axis_name) if in_batch else keys[:0]
    more = keys[:0] if queue is None else lax.stop_gradient(unit_length(queue))
    found: Summed = (positive, lax.stop_gradient(positive), jnp.full_like(positive, -jnp.inf))
    if num_negatives is not None:
        drawn = _drawn(queries, everyone, more, own, num_negatives, example_keys, tile_size)
        found = _together(found, _of_logits(drawn * scale))
    else:
        for candidates, skip in ((everyone, own), (more, jnp.full_like(own, -1))):
            if len(candidates):
                tile = choose_tile(tile_size, len(queries), len(candidates))
                found = _together(found, _negatives(queries, candidates, skip, scale, tile))
    log_sum_exp, expected, hardest = found
    mean = jnp.mean(log_sum_exp)
    return Contrast(mean, lax.stop_gradient(log_sum_exp), positive, hardest, expected)


def _negative(
    similarity: jax.Array, row: jax.Array, column: jax.Array, scale: jax.Array
) -> jax.Array:
    return jnp.where(row == column, -jnp.inf, similarity * scale)


def _negatives(
    queries: jax.Array,
    candidates: jax.Array,
    skip: jax.Array,
    scale: jax.Array,
    tile: int | None,
) -> Summed:
    """Over all candidates but, for each query, that at place ``skip``."""
    sums = sum_rows(
        Terms(log_sum_exp=(_negative,), largest=(_negative,)),
        queries,
        candidates,
        rows=skip,
        columns=jnp.arange(len(candidates), dtype=jnp.int32),
        scalars=scale,
        tile=tile,
    )
    return sums.log_sum_exp[0], sums.expected[0], sums.largest[0]


def _of_logits(logits: jax.Array) -> Summed:
    log_sum_exp = jax.nn.logsumexp(logits, axis=1)
    held = lax.stop_gradient(logits)
    share = jnp.exp(held - lax.stop_gradient(log_sum_exp)[:, None])
    return log_sum_exp, jnp.sum(share * held, axis=1), jnp.max(held, axis=1)


def _together(a: Summed, b: Summed) -> Summed:
    """Of two disjoint sets of candidates; the second may be empty (-inf)."""
    total = jnp.logaddexp(a[0], b[0])
    first, second = (lax.stop_gradient(jnp.exp(x - total)) for x in (a[0], b[0]))
    return total, first * a[1] + second * b[1], jnp.maximum(a[2], b[2])


def _drawn(
    queries: jax.Array,
    everyone: jax.Array,
    queue: jax.Array,
    own: jax.Array,
    count: int,
    example_keys: jax.Array | None,
    tile_size: TileSize,
) -> jax.Array:
    """Similarities [n, count] of each query to as many negatives, by a keyed permutation of all."""
    others = max(len(everyone) - 1, 0)
    available = others + len(queue)
    if not 0 < count <= available:
        raise UserError(f"num_negatives is {count}; give a number from 1 to {available}, or None")
    if example_keys is None or example_keys.shape != (len(queries), 2):
        shape = None if example_keys is None else example_keys.shape
        raise UserError(
            f"num_negatives draws by example_keys, which are {shape}; give uint32 "
            f"[{len(queries)}, 2], such as batch['key']"
        )
    candidates = jnp.concatenate([everyone, queue])
    words = mix(mix(example_keys[:, 0].astype(jnp.uint32), jnp) ^ example_keys[:, 1], jnp)
    positions = jnp.arange(count, dtype=jnp.uint32)

    @jax.checkpoint  # the negatives' rows, [count, d] a query, are fetched again instead of kept
    def one(query: jax.Array, place: jax.Array, word: jax.Array) -> jax.Array:
        index = permute(positions, word, available, jnp).astype(jnp.int32)
        if len(everyone):
            # Numbers leave out the positive; past it, places are one further on.
            index = index + (index >= place)
        highest = lax.Precision.HIGHEST
        return jnp.matmul(candidates[index], query, precision=highest)

    # Queries that are taken at once hold their negatives' rows, [count, d] each.
    rows = choose_tile(tile_size, len(queries), count * queries.shape[1]) or len(queries)
    rows = min(rows, len(queries))
    return lax.map(lambda x: one(*x), (queries, own, words), batch_size=rows)
