"""Dropout and drop-path whose masks are derived from the keys of examples."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_MASKS = 0x6D61736B  # purpose of a key: the augmentation folds view numbers, which are small


def view_keys(keys: jax.Array, views: int, first: int = 0) -> jax.Array:
    """Keys of the random masks of every view, from the keys of the examples.

    The key of a view is fold_in(fold_in(example key, purpose of masks), view number). It shares no
    random bits with the key from which the same view's augmentation is drawn.

    Args:
        keys: Keys of the examples, uint32 [n, 2], as in a batch.
        views: Number of views k per example in the group.
        first: Number of the group's first view; view numbers run across groups.

    Returns:
        Keys of the rows in the order of an encoder's rows, uint32 [n k, 2]: example-major, with all
        views of an example adjacent.

    Example:
        >>> keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
        >>> view_keys(keys, 2).shape
        (6, 2)
    """

    def fold(key: jax.Array, view: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(_wrap(key), _MASKS), view))

    numbers = jnp.arange(first, first + views)
    over_views = jax.vmap(fold, in_axes=(None, 0))
    return jax.vmap(over_views, in_axes=(0, None))(keys, numbers).reshape(-1, 2)


class Dropout(nn.Module):
    """Sets entries to 0, each with probability ``rate``, and scales the others by 1 / (1 - rate).

    The mask of a row depends on the row's key and ``layer`` only. It is therefore independent of
    the number of devices, of micro-batches and of the precision (Srivastava et al. 2014).

    Attributes:
        rate: Probability of 0, within [0, 1).
        layer: Number that no other ``Dropout`` or ``DropPath`` of the encoder has; layers with
            equal numbers draw from the same random bits.
    """

    rate: float
    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None, *, train: bool) -> jax.Array:
        """Drops entries of x.

        Args:
            x: Inputs, float [rows, ...].
            keys: Keys of the rows, uint32 [rows, 2]; see ``view_keys``. None is allowed where
                nothing is drawn: outside training, or at rate 0.
            train: True to drop; False returns x.

        Raises:
            ValueError: The rate is outside [0, 1), or keys are needed and not given.
        """
        return _drop(self, x, keys, x.shape[1:], train)


class DropPath(nn.Module):
    """Sets whole rows to 0, each with probability ``rate``, and scales the others.

    On the output of a residual branch it is stochastic depth (arXiv 1603.09382) with the scaling
    1 / (1 - rate) of later code. Attributes and arguments are those of ``Dropout``.
    """

    rate: float
    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None, *, train: bool) -> jax.Array:
        """Drops rows of x, float [rows, ...]; see ``Dropout.__call__``."""
        return _drop(self, x, keys, (1,) * (x.ndim - 1), train)


def _drop(
    module: Dropout | DropPath,
    x: jax.Array,
    keys: jax.Array | None,
    shape: tuple[int, ...],
    train: bool,
) -> jax.Array:
    """Drops with one draw per entry of ``shape``, which is broadcast to the shape of a row."""
    name = type(module).__name__
    if not 0 <= module.rate < 1:
        raise ValueError(f"the rate of {name} is {module.rate}; give a number within [0, 1)")
    if not train or not module.rate:
        return x
    if keys is None:
        raise ValueError(f"{name} needs a key per row in training; pass view_keys(batch['key'], k)")
    # float32 on both sides: random bits of float64 are others, and so would be the masks.
    kept_rate = jnp.float32(1 - module.rate)

    def kept(key: jax.Array) -> Any:
        return jax.random.bernoulli(jax.random.fold_in(_wrap(key), module.layer), kept_rate, shape)

    masks: jax.Array = jax.vmap(kept)(keys)
    dropped: jax.Array = jnp.where(masks, x / (1 - module.rate), jnp.zeros((), x.dtype))
    return dropped


def _wrap(key: jax.Array) -> jax.Array:
    wrapped: jax.Array = jax.random.wrap_key_data(key, impl="threefry2x32")
    return wrapped
