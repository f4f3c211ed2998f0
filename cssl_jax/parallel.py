"""One step over many devices: per-device code over the axis "data", run by shard_map or by pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cssl_jax.errors import UserError

AXIS = "data"
BACKENDS = ("shard_map", "pmap")
PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data", over ``devices`` (default: all), with Auto axis types."""
    devices = list(devices or jax.devices())
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def per_device_batch(batch_size: int, mesh: Mesh) -> int:
    """Rows a device holds.

    Raises:
        UserError: The global batch does not divide over the mesh.
    """
    devices = mesh.size
    if batch_size % devices:
        lower = batch_size // devices * devices
        choices = f"{lower} or {lower + devices}" if lower else f"{devices}"
        raise UserError(
            f"global batch {batch_size} does not divide over {devices} devices; use {choices}"
        )
    return batch_size // devices


def norm_groups(batch_size: int, norm_group: int, mesh: Mesh) -> int:
    """Groups of ``norm_group`` images (0: the global batch) that BatchNorm statistics are over.

    Raises:
        UserError: The groups do not divide the batch, or straddle devices unevenly.
    """
    size = norm_group or batch_size
    if not 0 < size <= batch_size or batch_size % size:
        raise UserError(
            f"model.norm_group {size} does not divide the global batch {batch_size}; use a divisor"
        )
    groups = batch_size // size
    if groups % mesh.size and mesh.size % groups:
        raise UserError(
            f"model.norm_group {size} makes {groups} groups of the batch {batch_size}, which "
            f"neither divide nor are divided by {mesh.size} devices; use a power of two"
        )
    return groups


def data_parallel(
    step: Callable[[PyTree, PyTree, PyTree], PyTree],
    mesh: Mesh,
    backend: str = "shard_map",
    *,
    donate: bool = True,
) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """Runs ``step(state, constants, feed)`` on every device of the mesh.

    ``step`` is per-device code: it sees the whole of ``state`` and ``constants`` (replicated) and
    its own rows of ``feed`` (split on the leading axis), may use collectives over "data", and must
    return what is equal on every device. Replication is not checked (check_vma=False): with the
    check on, autodiff of replicated parameters inserts a sum of its own, and averaged gradients
    come out n times too large. ``assert_replicated`` looks at the result instead.

    Args:
        step: The function; outputs are replicated.
        mesh: From ``make_mesh``.
        backend: "shard_map", or "pmap" (one process only).
        donate: Reuse the memory of ``state`` for the result.

    Returns:
        A compiled function of the same arguments, ``feed`` as made by ``put_batch``.

    Raises:
        UserError: Unknown backend, or pmap on several processes.
    """
    donated = (0,) if donate else ()
    if backend == "shard_map":
        specs = (PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS))
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated)
    if backend == "pmap":
        if jax.process_count() > 1:
            raise UserError(
                f"runtime.backend 'pmap' runs in one process, not in {jax.process_count()}: it "
                "would convert every parameter at each step; use 'shard_map'"
            )
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=donated,
            devices=list(mesh.devices.flat),
        )
    raise UserError(f"runtime.backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts host values on every device; copies, so that donating the result spares the original."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(np.array(x), sharding), tree)


def put_batch(batch: PyTree, mesh: Mesh, backend: str = "shard_map") -> PyTree:
    """Puts this process's rows of a global batch on its devices, split on the leading axis."""
    if backend == "pmap":
        # pmap wants the device axis written out: [N, ...] -> [devices, n, ...].
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def process_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Rows of the global batch that this process feeds, in the order its devices hold them."""
    n = per_device_batch(batch_size, mesh)
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    return np.concatenate([np.arange(i * n, (i + 1) * n) for i in mine])


def assert_replicated(tree: PyTree) -> None:
    """Raises RuntimeError, naming the leaf, where this process's devices hold different values."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if any(not np.array_equal(shards[0], other, equal_nan=True) for other in shards[1:]):
            name = jax.tree_util.keystr(path)
            raise RuntimeError(
                f"replicas differ at {name}: the step is not the same on all devices"
            )
