"""Norms of parameters and gradients that read each tensor once.

A norm is the square root of the sums of squares of single tensors. All users (LARS, its metrics and
the logged norms) build norms from ``square_sum``. The compiler then finds identical operations and
computes each of them once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
_MAX_STACKED = 4096  # entries of the largest tensors that are stacked before the reduction


def square_sum(x: jax.Array) -> jax.Array:
    """Sum of the squares of all entries of x (any shape), a scalar in the dtype of x."""
    return jnp.sum(jnp.square(x))


def square_sums(tree: PyTree) -> jax.Array:
    """``square_sum`` of every leaf, float [leaves], in the order of ``jax.tree.leaves``."""
    leaves = jax.tree.leaves(tree)
    same_shape: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        # Two thirds of a network's tensors are vectors of a few hundred entries. Small tensors of
        # the same shape are stacked into one operation, because copying them costs little.
        own_key = number if leaf.size > _MAX_STACKED else None
        same_shape.setdefault((leaf.shape, leaf.dtype, own_key), []).append(number)
    sums = [
        jnp.sum(jnp.square(jnp.stack([leaves[i] for i in numbers])), axis=range(1, len(shape) + 1))
        if len(numbers) > 1
        else square_sum(leaves[numbers[0]])[None]
        for (shape, _, _), numbers in same_shape.items()
    ]
    order = np.argsort([number for numbers in same_shape.values() for number in numbers])
    return jnp.concatenate(sums)[order]


def parameter_groups(params: PyTree) -> list[str]:
    """Parameter groups for which norms are logged: modules at depth 2, such as "encoder/conv"."""
    return list(dict.fromkeys(_group_of_leaf(params)))


def group_norms(squares: jax.Array, tree: PyTree) -> jax.Array:
    """Norm per group of ``parameter_groups``, float [groups], from ``square_sums`` of the tree."""
    groups, leaf_groups = parameter_groups(tree), np.array(_group_of_leaf(tree))
    # One masked sum for all groups; a separate sum per group would be one operation each.
    is_member = leaf_groups[None, :] == np.array(groups)[:, None]
    return jnp.sqrt(jnp.sum(jnp.where(is_member, squares, 0), axis=1))


def _group_of_leaf(tree: PyTree) -> list[str]:
    return [
        jax.tree_util.keystr(path[:2], simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
