"""Positions of patches: three fixed tables of sines and cosines, and learned tables of any size."""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError


def position_table(name: str, rows: int, columns: int, channels: int) -> np.ndarray:
    """Two-dimensional codes of the rows and columns of patches, D / 4 frequencies each.

    The tables of three code bases are incompatible: weights that were trained with one of them give
    other features with another. With the frequencies w_i = 10,000^(-4 i / D), i = 0 ... D / 4 - 1:

    ==================== ===========================================================================
    sincos_moco_v3       [sin(row w), cos(row w), sin(column w), cos(column w)], facebookresearch's
                         moco-v3, ``vits.py``
    sincos_mae           [sin(column w), cos(column w), sin(row w), cos(row w)], its mae and ijepa,
                         ``pos_embed.py``
    sincos_big_vision    the order of sincos_mae with w_i = 10,000^(-i / (D / 4 - 1)), google-
                         research's big_vision, ``vit.py``
    ==================== ===========================================================================

    Rows and columns count from 0, whatever the number of patches is.

    Args:
        name: Name of the table.
        rows: Number of rows of patches.
        columns: Number of columns of patches.
        channels: Number of channels D, a multiple of 4.

    Returns:
        float64 [rows columns, D], patches in row-major order.

    Raises:
        UserError: There is no such table.

    Example:
        >>> position_table("sincos_mae", 1, 2, 4).round(2).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.0, 1.0]]
    """
    if name not in TABLES:
        raise UserError(
            f"positions {name!r} are unknown; use 'learned' or {' or '.join(map(repr, TABLES))}"
        )
    return TABLES[name](rows, columns, channels)


def resample_positions(table: jax.Array, rows: int, columns: int) -> jax.Array:
    """A learned table of a square of patches at another number of rows and columns.

    Bicubic interpolation with antialiasing in float32 or wider, as timm's
    ``resample_abs_pos_embed``. A table of the same size is returned as it is.

    Args:
        table: float [side side, D], patches in row-major order.
        rows: Number of rows of the result.
        columns: Number of columns of the result.

    Returns:
        [rows columns, D] in the dtype of ``table``.
    """
    chex.assert_rank(table, 2)
    count, channels = table.shape
    side = math.isqrt(count)
    if (rows, columns) == (side, side):
        return table
    wide = table.astype(jnp.promote_types(table.dtype, jnp.float32))
    square = wide.reshape(side, side, channels)
    resampled: jax.Array = jax.image.resize(
        square,
        (rows, columns, channels),
        "cubic",
        antialias=True,
        precision=jax.lax.Precision.HIGHEST,
    )
    resampled = resampled.reshape(rows * columns, channels)
    return resampled.astype(table.dtype)


def _codes(positions: np.ndarray, rates: np.ndarray) -> np.ndarray:
    angles = positions.reshape(-1, 1) * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _moco_v3(rows: int, columns: int, channels: int) -> np.ndarray:
    row, column = np.indices((rows, columns))
    rates = 10_000.0 ** -(np.arange(channels // 4) / (channels / 4))
    return np.concatenate([_codes(row, rates), _codes(column, rates)], axis=1)


def _mae(rows: int, columns: int, channels: int) -> np.ndarray:
    row, column = np.indices((rows, columns))
    rates = 10_000.0 ** -(np.arange(channels // 4) / (channels / 4))
    return np.concatenate([_codes(column, rates), _codes(row, rates)], axis=1)


def _big_vision(rows: int, columns: int, channels: int) -> np.ndarray:
    row, column = np.indices((rows, columns))
    rates = 10_000.0 ** -np.linspace(0, 1, channels // 4)
    return np.concatenate([_codes(column, rates), _codes(row, rates)], axis=1)


TABLES: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "sincos_moco_v3": _moco_v3,
    "sincos_mae": _mae,
    "sincos_big_vision": _big_vision,
}
