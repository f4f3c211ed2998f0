"""Normalisation, gathering, matrix products, tile choice and argument checks of the losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.runtime import process

TileSize = int | str | None

CPU_WHOLE_ENTRIES = 2**18  # up to this size (256 pairs) a loop over tiles does not pay on a CPU
CPU_TILE = 512  # rows of a tile that fits in the cache of a core
# An accelerator computes the whole matrix faster than tiles, so memory alone decides there. The
# forward and the backward pass hold about three float32 arrays of the matrix's shape.
ACCELERATOR_BYTES_PER_ENTRY = 3 * 4
ACCELERATOR_MEMORY_DIVISOR = 8  # seven eighths of the memory are reserved for the encoder
ASSUMED_MEMORY = 16 * 2**30  # bytes, for an accelerator that does not report its memory
ACCELERATOR_TILE = 4096


class Contrast(NamedTuple):
    """Statistics per anchor from which losses and their metrics are computed.

    A logit is a similarity divided by the temperature. Only ``mean_log_sum_exp`` and ``positive``
    carry gradients; the other arrays are for metrics.

    Attributes:
        mean_log_sum_exp: Mean of ``log_sum_exp``, float scalar.
        log_sum_exp: Log-sum-exp of the logits of all candidates, float [rows].
        positive: Logit of the positive, float [rows].
        hardest_negative: Largest logit among the negatives, float [rows].
        expected: Mean logit under the softmax over the candidates, float [rows].
    """

    mean_log_sum_exp: jax.Array
    log_sum_exp: jax.Array
    positive: jax.Array
    hardest_negative: jax.Array
    expected: jax.Array


def normalize_rows(z: jax.Array) -> jax.Array:
    """Scales the rows of z [..., d] to norm 1, in float32 or wider; a zero row stays zero.

    Rows are first divided by their largest magnitude, so that the squares of entries from 1e-30 to
    1e30 neither overflow nor underflow. The direction does not depend on that factor, which
    therefore needs no gradient.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    z = z / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Gathers the rows of all devices in axis order: [n, ...] -> [N, ...]; differentiable."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def first_row(rows: int, axis_name: str | None) -> jax.Array | int:
    """Index of this device's first row in the gathered batch."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product of a [m, k] and b [k, n] in float32 or wider, at full precision."""
    # HIGHEST: by default a float32 product is bfloat16 on TPU and TF32 on GPU.
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(a, b, precision=highest, preferred_element_type=dtype)


def choose_tile(tile_size: TileSize, rows: int, columns: int) -> int | None:
    """Side of a tile for a similarity matrix [rows, columns]; None: compute the whole matrix.

    Args:
        tile_size: None for the whole matrix, a number of rows, or "auto". "auto" calls
            ``automatic_tile`` with the default backend and the memory of its first local device.
        rows: Number of anchors on this device.
        columns: Number of candidates.

    Raises:
        UserError: ``tile_size`` has any other value.
    """
    if tile_size == "auto":
        backend = jax.default_backend()
        # A CPU device reports no memory size, and the choice for a CPU does not use it.
        memory = None if backend == "cpu" else process.device_memory(jax.local_devices()[0])
        return automatic_tile(rows, columns, backend, memory)
    if tile_size is None or (isinstance(tile_size, int) and tile_size > 0):
        return tile_size
    raise UserError(
        f'tile_size is {tile_size!r}; give None (the whole matrix), "auto", or a positive number '
        "of rows, such as 1024"
    )


def automatic_tile(rows: int, columns: int, backend: str, memory: int | None) -> int | None:
    """Side of a tile for [rows, columns] similarities on a given backend; None: whole matrix.

    A CPU computes the whole matrix up to 2^18 similarities, otherwise tiles of 512 rows. An
    accelerator computes the whole matrix while 12 bytes per similarity are at most an eighth of its
    memory, otherwise tiles of 4,096 rows. The choice changes values by rounding only.

    Args:
        rows: Number of anchors on one device.
        columns: Number of candidates.
        backend: JAX platform name: "cpu", "gpu" or "tpu".
        memory: Memory of an accelerator in bytes; None: unknown, assume 16 GiB. Ignored for a CPU.

    >>> automatic_tile(2 * 4096, 2 * 4096, "gpu", 80 * 2**30)
    >>> automatic_tile(2 * 65536, 2 * 65536, "gpu", 80 * 2**30)
    4096
    """
    entries = rows * columns
    if backend == "cpu":
        return None if entries <= CPU_WHOLE_ENTRIES else CPU_TILE
    limit = (memory or ASSUMED_MEMORY) // ACCELERATOR_MEMORY_DIVISOR
    return None if ACCELERATOR_BYTES_PER_ENTRY * entries <= limit else ACCELERATOR_TILE


def check_pairs(first: jax.Array, second: jax.Array, what: str = "views") -> None:
    """Raises UserError unless both arrays have the same shape [n, d]."""
    if first.ndim != 2 or first.shape != second.shape:
        raise UserError(
            f"{what} have shapes {first.shape} and {second.shape}; give two arrays of the same "
            "shape [n, d]"
        )


def check_positive(**values: jax.Array | float) -> None:
    """Raises UserError if a Python number is not positive and finite; ignores traced values."""
    for name, value in values.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise UserError(f"{name} is {value}; give a positive number, such as 0.1")
