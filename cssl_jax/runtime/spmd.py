"""One step over many devices: per-device code over the axis "data", run by shard_map or by pmap."""

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
    """A mesh of one axis, "data", over ``devices`` (default: all), with Auto axis types.

    The devices of a TPU slice lie beside each other, in the order that suits its network; slices,
    which a slower one connects, follow one another.
    """
    auto: dict = {"axis_types": (AxisType.Auto,)}
    ordered = [
        device
        for members in by_slice(list(devices or jax.devices()))
        for device in jax.make_mesh((len(members),), (AXIS,), devices=members, **auto).devices
    ]
    return Mesh(np.array(ordered), (AXIS,), **auto)


def by_slice(devices: Sequence[Any]) -> list[list[Any]]:
    """Devices by the slice that they are of, each slice's in the order given; most have one."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    return [slices[index] for index in sorted(slices)]


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


def micro_batches(batch_size: int, mesh: Mesh, micro_batch: int) -> int:
    """Parts of ``micro_batch`` examples, over all devices, of the global batch; 0 is one part.

    Raises:
        UserError: They do not make up the global batch, or do not divide over the mesh.
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
    what = f"the global batch {batch_size}" if batch_size % micro_batch else over
    choices = " or ".join(map(str, nearest))
    raise UserError(f"train.micro_batch {micro_batch} does not divide {what}; use {choices}")


def norm_groups(batch_size: int, norm_group: int, mesh: Mesh, micro_batch: int = 0) -> int:
    """Groups of ``norm_group`` images that BatchNorm statistics are over (0: one group).

    They are groups of what is encoded at once: of the global batch, or of ``micro_batch``.

    Raises:
        UserError: The groups do not make up that batch, or straddle devices unevenly.
    """
    whole = micro_batch or batch_size
    name = f"train.micro_batch {whole}" if micro_batch else f"global batch {whole}"
    size = norm_group or whole
    if not 0 < size <= whole or whole % size:
        raise UserError(f"model.norm_group {size} does not divide the {name}; use a divisor")
    groups = whole // size
    if groups % mesh.size and mesh.size % groups:
        raise UserError(
            f"model.norm_group {size} makes {groups} groups of the {name}, which neither divide "
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

    ``step`` is per-device code: it sees the whole of ``state`` and ``constants`` (replicated) and
    its own rows of ``host_batch`` (split on the leading axis), may use collectives over "data", and
    must return what is equal on every device. Replication is not checked (check_vma=False): with
    the check on, autodiff of replicated parameters inserts a sum of its own, and averaged gradients
    come out n times too large. ``assert_replicated`` looks at the result instead.

    Args:
        step: The function; outputs are replicated.
        mesh: From ``make_mesh``.
        backend: "shard_map", or "pmap" (one process only).
        donate: Reuse the memory of ``state`` for the result.
        split_constants: ``constants`` are split on the leading axis too, see ``put_constants``.
        deterministic: Ask for the same bits at every execution, see ``same_bits``.

    Returns:
        A compiled function of the same arguments, ``host_batch`` as made by ``put_batch``.

    Raises:
        UserError: Unknown backend, or pmap on several processes, or with options of its own.
    """
    donated = (0,) if donate else ()
    options = same_bits(mesh.devices.flat[0].platform) if deterministic else {}
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
                "runtime.deterministic needs runtime.backend 'shard_map' on a GPU: pmap hands the "
                "compiler no options"
            )
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0 if split_constants else None, 0),
            out_axes=None,
            donate_argnums=donated,
            devices=list(mesh.devices.flat),
        )
    raise UserError(f"runtime.backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")


def same_bits(platform: str) -> dict[str, bool]:
    """Options with which XLA compiles to the same bits at every execution and compilation.

    On GPUs scatters and sums by atomics have an order of their own, and the algorithms of
    convolutions and products are chosen by timing them; both are turned off. CPUs and TPUs need
    nothing.
    """
    return {"xla_gpu_deterministic_ops": True} if platform in ("gpu", "cuda", "rocm") else {}


def argument_specs(split_constants: bool = False) -> tuple[PartitionSpec, ...]:
    """Of state, constants and feed under ``data_parallel``."""
    split = PartitionSpec(AXIS)
    return PartitionSpec(), split if split_constants else PartitionSpec(), split


def put_constants(constants: PyTree, mesh: Mesh, backend: str, split: bool) -> PyTree:
    """Puts host arrays on the devices once: whole on each, or ``split`` on the leading axis.

    All processes give the whole arrays, and each puts its devices' part. Where they do not divide
    over the mesh, zeros follow.
    """
    if not split:
        return replicate(constants, mesh)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def put(x: np.ndarray) -> jax.Array:
        rows = rows_held(len(x), mesh.size)

        def part(at: Any, unit: int = 1) -> np.ndarray:
            held = x[unit * (at[0].start or 0) :][:rows]
            return np.pad(held, [(0, rows - len(held)), *[(0, 0)] * (x.ndim - 1)])

        if backend == "pmap":  # which wants the device axis written out
            shape = (mesh.size, rows, *x.shape[1:])
            return jax.make_array_from_callback(shape, sharding, lambda at: part(at, rows)[None])
        shape = (mesh.size * rows, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, constants)


def rows_held(rows: int, devices: int) -> int:
    """Rows of split constants that each device holds."""
    return -(-rows // devices)


def fetch_rows(tree: PyTree, index: jax.Array) -> PyTree:
    """Rows of split constants, wherever they lie; per-device code.

    Every device hears what all want and gives what it holds, so that N rows go over the network a
    call, whatever the size of the constants.

    Args:
        tree: This device's part of each array, integers [S / devices, ...].
        index: int [n], this device's wishes.

    Returns:
        Arrays [n, ...].
    """
    wanted = jax.lax.all_gather(index, AXIS, tiled=True)

    def fetch(held: jax.Array) -> jax.Array:
        place = wanted - jax.lax.axis_index(AXIS) * len(held)
        here = (place >= 0) & (place < len(held))
        rows = held[jnp.where(here, place, 0)]
        given = jnp.where(here.reshape(-1, *[1] * (held.ndim - 1)), rows, 0)
        # One device gives the row, the others zeros: a sum of integers is exact.
        return jax.lax.psum_scatter(given, AXIS, scatter_dimension=0, tiled=True)

    return jax.tree.map(fetch, tree)


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


def own_rows(x: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split as by ``put_batch``, in the order put there."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def process_rows(batch_size: int, mesh: Mesh, micro_batch: int = 0) -> np.ndarray:
    """Rows of the global batch that this process feeds, in the order its devices hold them.

    Micro-batch k of b rows is the rows [k b, (k + 1) b) on any number of devices, each of which
    holds a contiguous share of every micro-batch: device p of P the rows k b + p b / P + r.
    """
    parts = micro_batches(batch_size, mesh, micro_batch)
    rows = np.arange(batch_size).reshape(parts, mesh.size, -1)
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    return rows[:, mine].swapaxes(0, 1).ravel()


def assert_replicated(tree: PyTree) -> None:
    """Raises RuntimeError, naming the leaf, where this process's devices hold different values."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if any(not np.array_equal(shards[0], other, equal_nan=True) for other in shards[1:]):
            name = jax.tree_util.keystr(path)
            raise RuntimeError(
                f"replicas differ at {name}: the step is not the same on all devices"
            )
