"""Norms of parameters and gradients, each tensor read once, whoever asks for them.

A norm is the root of sums of squares of single tensors. Whoever needs one builds it from
``square_sum``, so that the compiler sees the same operation and computes it once: for LARS, for its
figures and for the journal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
_SMALL = 4096  # numbers of a tensor


def square_sum(x: jax.Array) -> jax.Array:
    """Sum of the squares of all entries, a scalar."""
    return jnp.sum(jnp.square(x))


def square_sums(tree: PyTree) -> jax.Array:
    """``square_sum`` of every leaf: [leaves], in the order of ``jax.tree.leaves``."""
    leaves = jax.tree.leaves(tree)
    alike: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        # Two thirds of a network's tensors are vectors of some hundred numbers: those of one shape
        # are one operation, of which copying them is no matter.
        alone = number if leaf.size > _SMALL else None
        alike.setdefault((leaf.shape, leaf.dtype, alone), []).append(number)
    sums = [
        jnp.sum(jnp.square(jnp.stack([leaves[i] for i in numbers])), axis=range(1, len(shape) + 1))
        if len(numbers) > 1
        else square_sum(leaves[numbers[0]])[None]
        for (shape, _, _), numbers in alike.items()
    ]
    order = np.argsort([number for numbers in alike.values() for number in numbers])
    return jnp.concatenate(sums)[order]


def parameter_groups(params: PyTree) -> list[str]:
    """Names of the groups that norms are told of: modules two levels down, as "encoder/conv"."""
    return list(dict.fromkeys(_group_of_leaf(params)))


def group_norms(squares: jax.Array, tree: PyTree) -> jax.Array:
    """Norm of each of ``parameter_groups``: [groups], from the tree's ``square_sums``."""
    groups, of_leaf = parameter_groups(tree), np.array(_group_of_leaf(tree))
    # One operation for all groups: sums of a few scalars each would be an operation apiece.
    member = of_leaf[None, :] == np.array(groups)[:, None]
    return jnp.sqrt(jnp.sum(jnp.where(member, squares, 0), axis=1))


def _group_of_leaf(tree: PyTree) -> list[str]:
    return [
        jax.tree_util.keystr(path[:2], simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
