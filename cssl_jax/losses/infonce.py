"""InfoNCE between queries and keys or between two modalities, with optional queue or sampling."""

import chex
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
    normalize_rows,
)

# Per query, [n] each: log-sum-exp, mean logit under the softmax, largest negative logit.
_RowSums = tuple[jax.Array, jax.Array, jax.Array]


def info_nce(  # noqa: PLR0913  the arguments are the parameters of the formula
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    axis_name: str | None = None,
    tile_size: TileSize = None,
    queue: jax.Array | None = None,
    hard_negatives: jax.Array | None = None,
    in_batch: bool = True,
    num_negatives: int | None = None,
    example_keys: jax.Array | None = None,
) -> jax.Array:
    """InfoNCE (arXiv 1807.03748, eq. 4), one direction: each query selects its key among all keys.

    MoCo (arXiv 1911.05722, eq. 1) is the case of a ``queue``, ``in_batch=False`` and keys whose
    gradient the caller stops. Supervised SimCSE (arXiv 2104.08821, eq. 5) is that of
    ``hard_negatives``.

    Args:
        queries: Query rows of this device, float [n, d]; any norm.
        keys: Key rows of this device, float [n, d]; row i is the positive of query i. The other
            keys of the global batch are its negatives.
        temperature: tau > 0, a number or a traced scalar.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.
        queue: Additional negatives, float [Q, d], identical on every device; receives no gradient.
            None: no queue.
        hard_negatives: Additional negatives of this device, float [n, d], one per query. Each query
            has those of the whole global batch. They receive a gradient. None: there are none.
        in_batch: True if the other keys of the global batch are negatives.
        num_negatives: Number of negatives per query, drawn without replacement from the batch and
            the queue; holds [n, num_negatives] similarities. None: all negatives.
        example_keys: Random keys of the examples, uint32 [n, 2], such as ``batch["key"]``. The
            draws depend on nothing else. Required with ``num_negatives``.

    Returns:
        Scalar, the local loss (mean over n queries), float32 or wider.

    Raises:
        UserError: The shapes differ, there are no negatives, ``num_negatives`` exceeds the number
            of available negatives, or ``example_keys`` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.eye(2)  # one negative per query: ln(e + 1) - 1
        >>> round(float(info_nce(x, x, temperature=1.0)), 4)
        0.3133
    """
    contrast = query_contrast(
        queries,
        keys,
        temperature=temperature,
        axis_name=axis_name,
        tile_size=tile_size,
        queue=queue,
        hard_negatives=hard_negatives,
        in_batch=in_batch,
        num_negatives=num_negatives,
        example_keys=example_keys,
    )
    return contrast.mean_log_sum_exp - jnp.mean(contrast.positive)


def clip(
    first: jax.Array,
    second: jax.Array,
    *,
    temperature: jax.Array | float = 0.07,
    axis_name: str | None = None,
    tile_size: TileSize = None,
) -> jax.Array:
    """InfoNCE between two modalities in both directions (CLIP, arXiv 2103.00020, figure 3).

    Args:
        first: Rows of one modality on this device, float [n, d]; any norm.
        second: Rows of the other modality, float [n, d]; row i belongs to row i of ``first``.
        temperature: tau > 0, a number or a traced scalar. CLIP learns it, initialised at 0.07.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        tile_size: Side of a tile of the similarity matrix; see ``choose_tile``.

    Returns:
        Scalar, the local loss (mean of the two directions), float32 or wider.

    Raises:
        UserError: The shapes differ, or the temperature is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.eye(2)  # ln(e + 1) - 1 in either direction
        >>> round(float(clip(x, x, temperature=1.0)), 4)
        0.3133
    """
    first_to_second = info_nce(
        first, second, temperature=temperature, axis_name=axis_name, tile_size=tile_size
    )
    second_to_first = info_nce(
        second, first, temperature=temperature, axis_name=axis_name, tile_size=tile_size
    )
    return (first_to_second + second_to_first) / 2


def query_contrast(  # noqa: PLR0913  the arguments are those of info_nce
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array | float,
    axis_name: str | None = None,
    tile_size: TileSize = None,
    queue: jax.Array | None = None,
    hard_negatives: jax.Array | None = None,
    in_batch: bool = True,
    num_negatives: int | None = None,
    example_keys: jax.Array | None = None,
) -> Contrast:
    """Statistics from which ``info_nce`` and its metrics follow; same arguments and errors."""
    check_pairs(queries, keys, "queries and keys")
    check_positive(temperature=temperature)
    if not in_batch and queue is None:
        raise UserError("in_batch=False leaves no negatives; give a queue")
    if queue is not None:
        chex.assert_shape(queue, (None, keys.shape[1]), custom_message="give queue as [Q, d]")
    if hard_negatives is not None:
        check_pairs(queries, hard_negatives, "queries and hard_negatives")
        if num_negatives is not None:
            raise UserError("num_negatives draws from batch and queue; give no hard_negatives")
    queries, keys = normalize_rows(queries), normalize_rows(keys)
    scale = 1 / jnp.asarray(temperature, queries.dtype)
    positive = jnp.sum(queries * keys, axis=-1) * scale
    own = first_row(len(queries), axis_name) + jnp.arange(len(queries), dtype=jnp.int32)
    all_keys = gather(keys, axis_name) if in_batch else keys[:0]
    queue_keys = keys[:0] if queue is None else lax.stop_gradient(normalize_rows(queue))
    hard = keys[:0]
    if hard_negatives is not None:
        hard = gather(normalize_rows(hard_negatives), axis_name)
    sums: _RowSums = (positive, lax.stop_gradient(positive), jnp.full_like(positive, -jnp.inf))
    if num_negatives is not None:
        similarities = _sampled_similarities(
            queries, all_keys, queue_keys, own, num_negatives, example_keys, tile_size
        )
        sums = _merge(sums, _row_sums(similarities * scale))
    else:
        none = jnp.full_like(own, -1)  # matches no column: none of these candidates is a positive
        for candidates, skip in ((all_keys, own), (hard, none), (queue_keys, none)):
            if len(candidates):
                tile = choose_tile(tile_size, len(queries), len(candidates))
                sums = _merge(sums, _sum_negatives(queries, candidates, skip, scale, tile))
    log_sum_exp, expected, hardest = sums
    mean = jnp.mean(log_sum_exp)
    return Contrast(mean, lax.stop_gradient(log_sum_exp), positive, hardest, expected)


def _negative_logit(
    similarity: jax.Array, row: jax.Array, column: jax.Array, scale: jax.Array
) -> jax.Array:
    return jnp.where(row == column, -jnp.inf, similarity * scale)


def _sum_negatives(
    queries: jax.Array,
    candidates: jax.Array,
    skip: jax.Array,
    scale: jax.Array,
    tile: int | None,
) -> _RowSums:
    """Sums over all candidates except column ``skip`` (int32 [n], one column per query)."""
    sums = sum_rows(
        Terms(log_sum_exp=(_negative_logit,), largest=(_negative_logit,)),
        queries,
        candidates,
        rows=skip,
        columns=jnp.arange(len(candidates), dtype=jnp.int32),
        scalars=scale,
        tile=tile,
    )
    return sums.log_sum_exp[0], sums.expected[0], sums.largest[0]


def _row_sums(logits: jax.Array) -> _RowSums:
    log_sum_exp = jax.nn.logsumexp(logits, axis=1)
    constant = lax.stop_gradient(logits)
    probability = jnp.exp(constant - lax.stop_gradient(log_sum_exp)[:, None])
    return log_sum_exp, jnp.sum(probability * constant, axis=1), jnp.max(constant, axis=1)


def _merge(a: _RowSums, b: _RowSums) -> _RowSums:
    """Sums over the union of two disjoint candidate sets; the second may be empty (-inf)."""
    total = jnp.logaddexp(a[0], b[0])
    weight_a, weight_b = (lax.stop_gradient(jnp.exp(x - total)) for x in (a[0], b[0]))
    return total, weight_a * a[1] + weight_b * b[1], jnp.maximum(a[2], b[2])


def _sampled_similarities(
    queries: jax.Array,
    all_keys: jax.Array,
    queue: jax.Array,
    own: jax.Array,
    count: int,
    example_keys: jax.Array | None,
    tile_size: TileSize,
) -> jax.Array:
    """Similarities [n, count] of queries to negatives drawn by a permutation seeded per example."""
    available = max(len(all_keys) - 1, 0) + len(queue)
    if not 0 < count <= available:
        raise UserError(f"num_negatives is {count}; give a number from 1 to {available}, or None")
    if example_keys is None or example_keys.shape != (len(queries), 2):
        shape = None if example_keys is None else example_keys.shape
        raise UserError(
            f"num_negatives needs example_keys, which are {shape}; give uint32 "
            f"[{len(queries)}, 2], such as batch['key']"
        )
    candidates = jnp.concatenate([all_keys, queue])
    seeds = mix(mix(example_keys[:, 0].astype(jnp.uint32), jnp) ^ example_keys[:, 1], jnp)
    positions = jnp.arange(count, dtype=jnp.uint32)

    # The backward pass gathers the negatives, [count, d] per query, again instead of storing them.
    @jax.checkpoint
    def similarities(query: jax.Array, positive: jax.Array, seed: jax.Array) -> jax.Array:
        index = permute(positions, seed, available, jnp).astype(jnp.int32)
        if len(all_keys):
            # The permutation numbers the negatives only, so columns after the positive shift by 1.
            index = index + (index >= positive)
        highest = lax.Precision.HIGHEST
        return jnp.matmul(candidates[index], query, precision=highest)

    # Each query that is processed at the same time holds its negatives, [count, d].
    rows = choose_tile(tile_size, len(queries), count * queries.shape[1]) or len(queries)
    rows = min(rows, len(queries))
    drawn: jax.Array = lax.map(lambda x: similarities(*x), (queries, own, seeds), batch_size=rows)
    return drawn
