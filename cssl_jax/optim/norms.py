"""Norms of parameters and gradients that read each tensor once.

All users (LARS, its metrics, clipping and the logged norms) build norms from ``square_sums``. The
compiler then finds identical operations and computes each of them once.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
_MAX_STACKED = 4096  # entries of the largest tensors that are stacked before the reduction
_MAX_ROWS = 8192  # sums of rows of a tensor that are kept for the common last reduction


def square_sums(tree: PyTree) -> jax.Array:
    """Sum of the squares of every leaf, float [leaves], in the order of ``jax.tree.leaves``.

    A GPU reduces a large tensor in two operations, of which the second takes as long as its launch.
    Here each large tensor is reduced along its last axis, and one operation for all tensors adds
    up these sums of rows. Small tensors of one shape are stacked into one operation, because
    copying them costs little: two thirds of a network's tensors are vectors of a few hundred
    entries.
    """
    leaves = jax.tree.leaves(tree)
    groups = _groups_of_one_shape(leaves)
    large = [n for n, *others in groups if not others and _keeps_rows(leaves[n].shape)]
    stacks = [numbers for numbers in groups if numbers[0] not in large]
    sums = [
        jnp.sum(jnp.square(stack), axis=range(1, stack.ndim))
        for stack in (jnp.stack([leaves[n] for n in numbers]) for numbers in stacks)
    ]
    if large:
        rows = [jnp.sum(jnp.square(leaves[n]), axis=-1).reshape(-1) for n in large]
        sums.append(_sums_by_owner(rows))
    order = np.argsort([*itertools.chain(*stacks), *large])
    return jnp.concatenate(sums)[order] if sums else jnp.zeros(0)


def _groups_of_one_shape(leaves: list[jax.Array]) -> list[list[int]]:
    """Numbers of the leaves that are stacked; large leaves are alone."""
    same_shape: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        own_key = number if leaf.size > _MAX_STACKED else None
        same_shape.setdefault((leaf.shape, leaf.dtype, own_key), []).append(number)
    return list(same_shape.values())


def _keeps_rows(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is reduced along its last axis alone; not if that leaves many rows."""
    return len(shape) > 1 and math.prod(shape[:-1]) <= _MAX_ROWS


def _sums_by_owner(parts: list[jax.Array]) -> jax.Array:
    """Sum of each of the vectors [n_i], float [parts], in one operation for all of them."""
    # The barrier keeps XLA from reducing each vector by itself, where the sums are added up again.
    joined = jax.lax.optimization_barrier(jnp.concatenate(parts))
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    is_own = jnp.asarray(owner) == jnp.arange(len(parts))[:, None]
    return jnp.sum(jnp.where(is_own, joined, 0), axis=1)


def leaf_norms(tree: PyTree) -> jax.Array:
    """L2 norm of every leaf, float [leaves], in the order of ``jax.tree.leaves``."""
    return jnp.sqrt(square_sums(tree))


def scale_leaves(tree: PyTree, scales: jax.Array) -> PyTree:
    """Multiplies each leaf by its entry of ``scales``, float [leaves]; dtypes are kept."""
    leaves, structure = jax.tree.flatten(tree)
    scaled = [leaf * scales[i].astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, scaled)


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
