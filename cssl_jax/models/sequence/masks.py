"""Padding masks of sequences, and reductions over the steps that count."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.series.batched import step_mask
from cssl_jax.errors import UserError


def split_input(x: Any) -> tuple[jax.Array, jax.Array]:
    """Values and padding mask of an encoder's input.

    Args:
        x: {"values": float [n, T, C], "length": int32 [n]}. Values from a length on may hold
            anything, NaN included.

    Returns:
        (values with 0 at padding, float [n, T, C]; mask, bool [n, T], False at padding).

    Raises:
        UserError: ``x`` is no such tree.

    Example:
        >>> values = jnp.full((1, 3, 1), 5.0)
        >>> values, mask = split_input({"values": values, "length": jnp.array([2])})
        >>> values.ravel().tolist(), mask.tolist()
        ([5.0, 5.0, 0.0], [[True, True, False]])
    """
    if not isinstance(x, Mapping) or not {"values", "length"} <= set(x):
        given = f"a tree of {', '.join(x)}" if isinstance(x, Mapping) else f"shape {jnp.shape(x)}"
        raise UserError(
            f"this encoder takes sequences, values [n, T, C] and length [n], and was given {given};"
            " for images use an image encoder, such as --model.encoder resnet18"
        )
    values, length = x["values"], x["length"]
    chex.assert_rank([values, length], [3, 1])
    mask = step_mask(length, values.shape[1])
    return zero_outside(values, mask), mask


def with_omitted(mask: jax.Array, keep: jax.Array | None) -> jax.Array:
    """The padding mask, False at steps that ``keep`` omits too; both bool [n, T]."""
    if keep is None:
        return mask
    chex.assert_equal_shape([mask, keep])
    return mask & keep


def zero_outside(x: jax.Array, mask: jax.Array) -> jax.Array:
    """X [n, T, ..., C] with 0 where the mask [n, T] is False.

    A selection, not a product: 0 times NaN is NaN.
    """
    kept = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
    return jnp.where(kept, x, jnp.zeros((), x.dtype))


def strided(mask: jax.Array, stride: int) -> jax.Array:
    """Mask after a convolution with a stride and symmetric padding.

    Step i of the output is centred at step ``stride`` i of the input. It counts if one of the steps
    from there up to the next centre counts: a length L becomes ceil(L / stride), whatever T is.

    Args:
        mask: bool [n, T].
        stride: Steps between two outputs.

    Returns:
        bool [n, ceil(T / stride)].

    Example:
        >>> strided(jnp.array([[True, True, True, False, False]]), 2).tolist()
        [[True, True, False]]
    """
    n, steps = mask.shape
    padded = jnp.pad(mask, ((0, 0), (0, -steps % stride)))
    return padded.reshape(n, -1, stride).any(axis=2)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the steps that count, float32 or wider [n, C]; 0 where none counts."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return zero_outside(x, mask).sum(axis=1) / count.astype(x.dtype)


def masked_max(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maximum over the steps that count, float32 or wider [n, C]; 0 where none counts."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # The lowest finite number: minus infinity would survive in a row without a step.
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    largest = jnp.where(mask[..., None], x, lowest).max(axis=1)
    return jnp.where(mask.any(axis=1)[:, None], largest, jnp.zeros((), x.dtype))
