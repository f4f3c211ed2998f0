"""Bit-exact digests of arrays: they compare replicas, and checkpoints with their saved state."""

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
_GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio: spreads indices over 32 bits


def names(tree: PyTree) -> list[str]:
    """Name of every leaf, such as "params/encoder/conv/kernel", in the order of ``digests``."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


@jax.jit
def digests(tree: PyTree) -> jax.Array:
    """Digest of every leaf, uint32 [leaves]: sum of 32-bit integers, each hashed with its index.

    Sums of integers wrap and do not depend on the order, so a digest is identical on every backend.
    A change of any single bit changes the digest. Two changes cancel with a probability of 2**-32.
    """
    return jnp.stack([_digest(leaf) for leaf in jax.tree.leaves(tree)])


@jax.jit  # leaves of the same shape share one trace; tracing hundreds of leaves takes seconds
def _digest(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize > 4:
        integers = jax.lax.bitcast_convert_type(x, jnp.uint32).ravel()
    else:
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        integers = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()
    index = jnp.arange(integers.size, dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
    return jnp.sum(mix(integers ^ mix(index, jnp), jnp), dtype=jnp.uint32)


@functools.lru_cache(maxsize=8)
def make_replica_check(mesh: Mesh) -> Callable[[PyTree], list[str]]:
    """Builds a function from a replicated tree to the names of leaves that differ between devices.

    Each device computes the digests of its copy, and the digests are compared over the mesh. The
    check therefore works across processes, and all processes get the same result. An empty list
    means that all copies are identical.
    """

    def compare(tree: PyTree) -> jax.Array:
        local = digests(tree)
        highest, lowest = jax.lax.pmax(local, spmd.AXIS), jax.lax.pmin(local, spmd.AXIS)
        return jnp.not_equal(highest, lowest)

    # check_vma=False, because the check must not assume the replication that it tests.
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
        differing = np.asarray(jax.device_get(compiled(tree)))
        return [name for name, differs in zip(names(tree), differing, strict=True) if differs]

    return check
