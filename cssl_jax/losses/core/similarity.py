"""What the losses share: unit length, the gather, products, and what each anchor sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError
from cssl_jax.runtime import process

TileSize = int | str | None

CPU_WHOLE_ENTRIES = 2**18  # a matrix so small is not worth a loop on a CPU: 256 pairs
CPU_TILE = 512  # rows of a tile that stays in a core's cache
# An accelerator computes the whole matrix faster than tiles, so memory alone decides there. The
# forward and the backward pass hold about three float32 arrays of the matrix's shape.
ACCELERATOR_BYTES_PER_ENTRY = 3 * 4
ACCELERATOR_MEMORY_DIVISOR = 8  # the other seven eighths are for the encoder
ASSUMED_MEMORY = 16 * 2**30  # bytes of an accelerator that does not report its memory
ACCELERATOR_TILE = 4096


class Contrast(NamedTuple):
    """What the losses and their metrics are read from, one row an anchor.

    Only ``mean_log_sum_exp`` and ``positive`` carry gradients; the rest is for metrics.

    Attributes:
        mean_log_sum_exp: Scalar, the mean of ``log_sum_exp``.
        log_sum_exp: [rows], over every candidate of the anchor.
        positive: [rows], the positive's similarity over temperature.
        hardest_negative: [rows], the largest similarity over temperature among the negatives.
        expected: [rows], mean similarity over temperature under the softmax over the candidates.
    """

    mean_log_sum_exp: jax.Array
    log_sum_exp: jax.Array
    positive: jax.Array
    hardest_negative: jax.Array
    expected: jax.Array


def unit_length(z: jax.Array) -> jax.Array:
    """Rows of z [..., d] scaled to length 1, in at least float32; a zero row stays zero.

    Rows are first divided by their largest magnitude, so that squares neither overflow nor vanish
    from 1e-30 to 1e30; the direction does not depend on that factor, so it needs no gradient.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    z = z / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Every device's rows, in the order of the axis: [n, ...] -> [N, ...]; differentiable."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def first_row(rows: int, axis_name: str | None) -> jax.Array | int:
    """Position in the gathered batch of this device's first row."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A [m, k] times b [k, n] in at least float32, with all its digits."""
    # HIGHEST: by default a float32 product is bfloat16 on TPU and TF32 on GPU.
    kind = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(a, b, precision=highest, preferred_element_type=kind)


def choose_tile(tile_size: TileSize, rows: int, columns: int) -> int | None:
    """Side of a tile for a matrix of similarities [rows, columns]; None is the whole matrix.

    Args:
        tile_size: None for the whole matrix, a number of rows, or "auto" for ``automatic_tile`` on
            the default backend and the memory of its first local device.
        rows: Number of anchors on this device.
        columns: Number of candidates.

    Raises:
        UserError: ``tile_size`` is none of these.
    """
    if tile_size == "auto":
        backend = jax.default_backend()
        # A CPU reports no memory, and needs none of it for the choice.
        memory = None if backend == "cpu" else process.device_memory(jax.local_devices()[0])
        return automatic_tile(rows, columns, backend, memory)
    if tile_size is None or (isinstance(tile_size, int) and tile_size > 0):
        return tile_size
    raise UserError(
        f'tile_size is {tile_size!r}; give None (the whole matrix), "auto", or a positive number '
        "of rows, such as 1024"
    )


def automatic_tile(rows: int, columns: int, backend: str, memory: int | None) -> int | None:
    """Side of a tile for [rows, columns] similarities on a kind of device; None: whole matrix.

    A CPU takes the whole matrix up to 2^18 similarities, else tiles of 512 rows. An accelerator
    takes the whole matrix while 12 bytes per similarity are at most an eighth of its memory, else
    tiles of 4,096 rows. The choice changes values by rounding only.

    Args:
        rows: Number of anchors on one device.
        columns: Number of candidates.
        backend: Platform name as JAX has it: "cpu", "gpu" or "tpu".
        memory: Bytes of an accelerator; None: unknown, taken as 16 GiB. Unused for a CPU.

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
    """Raises UserError unless both are [n, d]."""
    if first.ndim != 2 or first.shape != second.shape:
        raise UserError(
            f"{what} have shapes {first.shape} and {second.shape}; give two equal [n, d]"
        )


def check_positive(**values: jax.Array | float) -> None:
    """Raises UserError at a number, known beforehand, that is not positive and finite."""
    for name, value in values.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise UserError(f"{name} is {value}; give a positive number, such as 0.1")
