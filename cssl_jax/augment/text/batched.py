"""Applies sampled parameters to batches of tokens, in compiled JAX."""

import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.text.policy import TextPolicy

Tokens = dict[str, jax.Array]  # {"tokens": int32 [..., T], "length": int32 [...]}
# Names of the arrays of the texts of an example. The first text is the example itself; others come
# from the columns positive and negative.
MEMBERS = {
    "text": ("tokens", "length"),
    "positive": ("positive_tokens", "positive_length"),
    "negative": ("negative_tokens", "negative_length"),
}


def apply_views(examples: Tokens, drawn: Parameters, *, policy: TextPolicy, size: int) -> Tokens:
    """Computes every view of every text.

    Args:
        examples: tokens int32 [n, T] and length int32 [n], at least 1; and the same of a positive
            and a negative, see ``MEMBERS``.
        drawn: Parameters, leaves [n, k, ...]; see ``policy.sample_views``.
        policy: Policy of the parameters; operations that it does not use are not compiled. View j
            is of text j of ``policy.members``, of those that the examples have, in turn.
        size: Number of tokens of the views, at most which a text keeps.

    Returns:
        tokens int32 [n, k, size], 0 from the length on, and length int32 [n, k]. The first and the
        last token of a text stay, and of at least three tokens one between them does.
    """
    present = [MEMBERS[name] for name in policy.members if MEMBERS[name][0] in examples]
    count = drawn["crop_length"].shape[1]
    turns = [present[j % len(present)] for j in range(count)]
    tokens, length = (jnp.stack([examples[names[i]] for names in turns], axis=1) for i in (0, 1))

    def one(tokens: jax.Array, length: jax.Array, parameters: Parameters) -> Tokens:
        return _view(tokens, length, parameters, policy, size)

    views: Tokens = jax.vmap(jax.vmap(one))(tokens, length, drawn)
    return views


def _view(
    tokens: jax.Array, length: jax.Array, drawn: Parameters, policy: TextPolicy, size: int
) -> Tokens:
    """One view: tokens [T] -> {"tokens": [size], "length": []}."""
    places = jnp.arange(len(tokens))
    inside = (places > 0) & (places < length - 1)  # neither an end nor padding
    kept, count = inside, jnp.maximum(length - 2, 0)
    if policy.uses("crop"):
        dtype = drawn["crop_length"].dtype
        width = jnp.maximum(jnp.ceil(drawn["crop_length"] * count.astype(dtype)), 1)
        # Rounded down, so that each of the starts is equally likely.
        start = jnp.floor(drawn["crop_start"] * (count.astype(dtype) - width + 1))
        kept &= (places - 1 >= start) & (places - 1 < start + width)
    if policy.uses("delete"):
        key = jax.random.wrap_key_data(drawn["delete_key"], impl="threefry2x32")
        # float32 on both sides: random bits of float64 are others, and so would be the views.
        uniform = jax.random.uniform(key, tokens.shape, jnp.float32)
        # The token with the largest number stays whatever the rate: a view is never empty.
        largest = jnp.argmax(jnp.where(kept, uniform, -1))
        kept &= (uniform >= drawn["delete"].astype(jnp.float32)) | (places == largest)
    kept |= (places == 0) | (places == length - 1)
    # The kept tokens in their order, then the others.
    order = jnp.argsort(~kept, stable=True)
    order = jnp.pad(order, (0, max(size - len(order), 0)))[:size]
    total = jnp.minimum(kept.sum(), size).astype(jnp.int32)
    chosen = jnp.where(jnp.arange(size) < total, tokens[order], 0)
    return {"tokens": chosen, "length": total}
