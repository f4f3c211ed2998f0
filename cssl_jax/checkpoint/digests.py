"""Digests of arrays to the bit: whether devices agree, and whether a checkpoint came back whole."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from cssl_jax.data.sampler import mix
from cssl_jax.runtime import spmd

PyTree = Any
_GOLDEN = 0x9E3779B9


def names(tree: PyTree) -> list[str]:
    """One for every leaf, in the order of ``digests``: "params/encoder/conv/kernel"."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


@jax.jit
def digests(tree: PyTree) -> jax.Array:
    """uint32 [leaves]: the sum of mixed 32-bit words, each mixed with its place.

    Sums of integers wrap and have no order, so that the digest is the same wherever it is computed;
    any one changed bit changes it, and two changes cancel with a chance of 2**-32.
    """
    return jnp.stack([_digest(leaf) for leaf in jax.tree.leaves(tree)])


@jax.jit  # leaves of one shape are traced once: hundreds of leaves would take seconds
def _digest(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize > 4:
        words = jax.lax.bitcast_convert_type(x, jnp.uint32).ravel()
    else:
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
    return jnp.sum(mix(words ^ mix(place, jnp), jnp), dtype=jnp.uint32)


@functools.lru_cache(maxsize=8)
def make_replica_check(mesh: Mesh) -> Callable[[PyTree], list[str]]:
    """Builds a function from a replicated tree to the names of the leaves that devices hold unlike.

    Each device digests what it holds, and the digests are compared over the mesh, so that the check
    works across processes and all of them get the same answer; an empty list is a healthy one.
    """

    def compare(tree: PyTree) -> jax.Array:
        mine = digests(tree)
        highest, lowest = (f(mine, spmd.AXIS) for f in (jax.lax.pmax, jax.lax.pmin))
        return highest != lowest

    # As in parallel.data_parallel, replication is what is in question: it is not assumed.
    compiled = jax.jit(
        jax.shard_map(
            compare,
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )

    def check(tree: PyTree) -> list[str]:
        unlike = np.asarray(jax.device_get(compiled(tree)))
        return [name for name, differs in zip(names(tree), unlike, strict=True) if differs]

    return check
