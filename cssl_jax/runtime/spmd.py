"""Data parallelism: runs per-device code over the mesh axis "data" by shard_map or pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cssl_jax.errors import UserError

AXIS = "data"
BACKENDS = ("shard_map", "pmap")
PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Creates a mesh with one axis, "data", over ``devices`` (default: all), of Auto axis type.

    The devices of a TPU slice are adjacent, in the order that suits the slice's network. Slices,
    which a slower network connects, follow one another.
    """
    auto: dict[str, Any] = {"axis_types": (AxisType.Auto,)}
    ordered = [
        device
        for members in by_slice(list(devices or jax.devices()))
        for device in jax.make_mesh((len(members),), (AXIS,), devices=members, **auto).devices
    ]
    return Mesh(np.array(ordered), (AXIS,), **auto)


def by_slice(devices: Sequence[Any]) -> list[list[Any]]:
    """Groups devices by TPU slice, in the order given; devices without slices form one group."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    return [slices[index] for index in sorted(slices)]


def per_device_batch(batch_size: int, mesh: Mesh) -> int:
    """Number of examples per device.

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


def micro_batches(batch_size: int, mesh: Mesh, micro_batch: int) -> int:
    """Number of micro-batches per global batch.

    Args:
        batch_size: Global batch size in examples.
        mesh: Devices that a micro-batch is split over.
        micro_batch: Global micro-batch size in examples; 0 means a single micro-batch.

    Raises:
        UserError: The micro-batch does not divide the global batch, or not over the devices.
    """
    per_device_batch(batch_size, mesh)
    if not micro_batch:
        return 1
    if not batch_size % micro_batch and not micro_batch % mesh.size:
        return batch_size // micro_batch
    fitting = [n for n in range(mesh.size, batch_size + 1, mesh.size) if not batch_size % n]
    below = [n for n in fitting if n < micro_batch]
    nearest = below[-1:] + fitting[len(below) :][:1]
    over = f"over {mesh.size} devices"
    reason = f"the global batch {batch_size}" if batch_size % micro_batch else over
    choices = " or ".join(map(str, nearest))
    raise UserError(f"train.micro_batch {micro_batch} does not divide {reason}; use {choices}")


def norm_groups(batch_size: int, norm_group: int, mesh: Mesh, micro_batch: int = 0) -> int:
    """Number of groups of images over which BatchNorm computes its statistics.

    Args:
        batch_size: Global batch size in examples.
        norm_group: Images per group; 0 means a single group.
        mesh: Devices that the batch is split over.
        micro_batch: Global micro-batch size, which the groups then divide; 0 means that the whole
            batch is encoded at once.

    Raises:
        UserError: The group size does not divide the batch, or groups and devices do not divide
            one another.
    """
    encoded = micro_batch or batch_size  # examples that are encoded at once
    name = f"train.micro_batch {encoded}" if micro_batch else f"global batch {encoded}"
    size = norm_group or encoded
    if not 0 < size <= encoded or encoded % size:
        raise UserError(f"model.norm_group {size} does not divide the {name}; use a divisor")
    groups = encoded // size
    if groups % mesh.size and mesh.size % groups:
        raise UserError(
            f"model.norm_group {size} gives {groups} groups of the {name}, which neither divide "
            f"nor are divided by {mesh.size} devices; use a power of two"
        )
    return groups


def data_parallel(
    step: Callable[[PyTree, PyTree, PyTree], PyTree],
    mesh: Mesh,
    backend: str = "shard_map",
    *,
    donate: bool = True,
    split_constants: bool = False,
    deterministic: bool = False,
) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """Runs ``step(state, constants, host_batch)`` on every device of the mesh.

    ``step`` is per-device code. It receives all of ``state`` and ``constants`` (replicated) and the
    device's rows of ``host_batch`` (split on the leading axis). It may use collectives over "data",
    and must return the same values on every device. Replication is not checked (check_vma=False):
    with the check, autodiff of replicated parameters inserts an additional sum, and averaged
    gradients become n times too large. ``assert_replicated`` checks the result instead.

    Args:
        step: Per-device function; its results are replicated.
        mesh: Mesh from ``make_mesh``.
        backend: "shard_map", or "pmap" (single process only).
        donate: Whether the result reuses the memory of ``state``.
        split_constants: Whether ``constants`` are split on the leading axis, see ``put_constants``.
        deterministic: Whether every execution must give the same bits; see
            ``deterministic_options``.

    Returns:
        A compiled function of the same arguments; ``host_batch`` must come from ``put_batch``.

    Raises:
        UserError: The backend is unknown, or it is pmap with several processes or with
            ``deterministic`` on a GPU.
    """
    donated = (0,) if donate else ()
    options = deterministic_options(mesh.devices.flat[0].platform) if deterministic else {}
    if backend == "shard_map":
        specs = argument_specs(split_constants)
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated, compiler_options=options)
    if backend == "pmap":
        if jax.process_count() > 1:
            raise UserError(
                f"runtime.backend 'pmap' runs in one process, not in {jax.process_count()}: it "
                "would convert every parameter at each step; use 'shard_map'"
            )
        if options:
            raise UserError(
                "runtime.deterministic needs runtime.backend 'shard_map' on a GPU: pmap passes no "
                "options to the compiler"
            )
        mapped_by_pmap: Callable[[PyTree, PyTree, PyTree], PyTree] = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0 if split_constants else None, 0),
            out_axes=None,
            donate_argnums=donated,
            devices=list(mesh.devices.flat),
        )
        return mapped_by_pmap
    raise UserError(f"runtime.backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")


def deterministic_options(platform: str) -> dict[str, bool]:
    """Compiler options with which XLA gives the same bits in every compilation and execution.

    On GPUs, scatters and sums that use atomics run in an arbitrary order, and XLA chooses the
    algorithms of convolutions and products by timing them. The option disables both. CPUs and TPUs
    need no option.
    """
    return {"xla_gpu_deterministic_ops": True} if platform in ("gpu", "cuda", "rocm") else {}


def argument_specs(split_constants: bool = False) -> tuple[PartitionSpec, ...]:
    """Partition specs of state, constants and host batch under ``data_parallel``."""
    split = PartitionSpec(AXIS)
    return PartitionSpec(), split if split_constants else PartitionSpec(), split


def put_constants(constants: PyTree, mesh: Mesh, backend: str, split: bool) -> PyTree:
    """Puts host arrays on the devices: replicated, or split on the leading axis.

    Args:
        constants: Tree of arrays [S, ...]; every process passes the whole arrays.
        mesh: Mesh from ``make_mesh``.
        backend: "shard_map" or "pmap".
        split: Whether to split the arrays. If S does not divide over the mesh, zeros pad the end.
    """
    if not split:
        return replicate(constants, mesh)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def put(x: np.ndarray) -> jax.Array:
        rows = rows_held(len(x), mesh.size)

        def shard(index: Any, unit: int = 1) -> np.ndarray:
            """Padded rows of the device at ``index``, whose start counts ``unit`` rows."""
            held = x[unit * (index[0].start or 0) :][:rows]
            return np.pad(held, [(0, rows - len(held)), *[(0, 0)] * (x.ndim - 1)])

        if backend == "pmap":  # pmap needs an explicit device axis
            shape = (mesh.size, rows, *x.shape[1:])
            return jax.make_array_from_callback(
                shape, sharding, lambda index: shard(index, rows)[None]
            )
        shape = (mesh.size * rows, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    return jax.tree.map(put, constants)


def rows_held(rows: int, devices: int) -> int:
    """Number of rows of split constants that each device holds, including padding."""
    return -(-rows // devices)


def fetch_rows(tree: PyTree, index: jax.Array) -> PyTree:
    """Fetches rows of split constants from the devices that hold them; per-device code.

    Every device gathers the indices of all and contributes the rows that it holds. N rows per call
    go over the network for N indices in total, whatever the size of the constants.

    Args:
        tree: This device's shard of each array, [S / devices, ...].
        index: Global indices of the rows that this device needs, int [n].

    Returns:
        Tree of arrays [n, ...].
    """
    requested = jax.lax.all_gather(index, AXIS, tiled=True)

    def fetch(held: jax.Array) -> jax.Array:
        local = requested - jax.lax.axis_index(AXIS) * len(held)
        is_local = (local >= 0) & (local < len(held))
        rows = held[jnp.where(is_local, local, 0)]
        contribution = jnp.where(is_local.reshape(-1, *[1] * (held.ndim - 1)), rows, 0)
        # One device contributes the row, the others zeros; their sum is exact.
        summed: jax.Array = jax.lax.psum_scatter(
            contribution, AXIS, scatter_dimension=0, tiled=True
        )
        return summed

    return jax.tree.map(fetch, tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies host values to every device; donating the result leaves the original intact.

    With several processes, all pass the same bits; ``jax.device_put`` raises if they differ.
    """
    sharding = NamedSharding(mesh, PartitionSpec())
    arrays = jax.tree.map(np.array, tree)
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)
    # device_put compares the processes' values, and NaN, a missing value, differs from itself.
    placed = jax.tree.map(lambda x: jax.device_put(_bits(x), sharding), arrays)
    dtypes = jax.tree.map(lambda x: x.dtype, arrays)

    def to_values(bits: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x, dtype: x if x.dtype == dtype else jax.lax.bitcast_convert_type(x, dtype),
            bits,
            dtypes,
        )

    return jax.jit(to_values, out_shardings=sharding, donate_argnums=0)(placed)


def _bits(x: np.ndarray) -> np.ndarray:
    """The bits of floating-point numbers as unsigned integers; other arrays unchanged."""
    return x.view(f"u{x.dtype.itemsize}") if jnp.issubdtype(x.dtype, jnp.inexact) else x


def put_batch(batch: PyTree, mesh: Mesh, backend: str = "shard_map") -> PyTree:
    """Puts this process's rows of a global batch on its devices, split on the leading axis.

    Args:
        batch: Tree of host arrays [rows of this process, ...], see ``process_rows``.
        mesh: Mesh from ``make_mesh``.
        backend: "shard_map" or "pmap".
    """
    if backend == "pmap":
        # pmap needs an explicit device axis: [N, ...] -> [devices, n, ...].
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def own_rows(x: jax.Array) -> np.ndarray:
    """Rows of this process in an array that is split as by ``put_batch``, in the same order."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def process_rows(batch_size: int, mesh: Mesh, micro_batch: int = 0) -> np.ndarray:
    """Rows of the global batch that this process supplies, in the order of its devices.

    Micro-batch k of b rows consists of the rows [k b, (k + 1) b) on any number of devices. Each
    device holds a contiguous block of every micro-batch: device p of P the rows k b + p b / P + r.

    Args:
        batch_size: Global batch size in examples.
        mesh: Mesh from ``make_mesh``.
        micro_batch: Global micro-batch size in examples; 0 means a single micro-batch.

    Returns:
        Row numbers, int [rows of this process].
    """
    parts = micro_batches(batch_size, mesh, micro_batch)
    rows = np.arange(batch_size).reshape(parts, mesh.size, -1)
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    return rows[:, mine].swapaxes(0, 1).ravel()


def global_rows(x: jax.Array, axis_name: str | None, micro_batches: int = 1) -> jax.Array:
    """Gathers rows in the order of the global batch, inside of a mapped function; differentiable.

    A device holds a block of every micro-batch, see ``process_rows``. A plain gather is therefore
    in the order (device, micro-batch, row) and depends on the number of devices.

    Args:
        x: Rows of this device, [n, ...].
        axis_name: Mapped axis that the batch is split over; None on a single device.
        micro_batches: Number of micro-batches.

    Returns:
        Rows of the global batch, [N, ...].
    """
    if axis_name is None:
        return x
    gathered: jax.Array = jax.lax.all_gather(x, axis_name)
    if micro_batches == 1:
        return gathered.reshape(-1, *x.shape[1:])
    blocks = gathered.reshape(len(gathered), micro_batches, -1, *x.shape[1:])
    return blocks.swapaxes(0, 1).reshape(-1, *x.shape[1:])


def assert_replicated(tree: PyTree) -> None:
    """Checks that this process's devices hold identical values of every leaf.

    Raises:
        RuntimeError: Values differ; the message names the leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if any(not np.array_equal(shards[0], other, equal_nan=True) for other in shards[1:]):
            name = jax.tree_util.keystr(path)
            raise RuntimeError(
                f"replicas differ at {name}: the step is not the same on all devices"
            )
