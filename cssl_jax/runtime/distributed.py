"""Start and end of a process that is one of several, under JAX's distributed runtime."""

import collections
import glob
import importlib.util
import ipaddress
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.runtime import spmd

TIMEOUT = 300.0  # seconds
_HEARTBEAT = 100.0  # seconds at most, JAX's own default
_LAST_WORDS = 3.0  # seconds in which the others may still speak
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_OPTIONS = ("--coordinator", "--num-processes", "--process-id")


def start(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = TIMEOUT,
) -> None:
    """Joins the other processes of this run, where there are some; one process waits for nothing.

    What is not given comes from the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, else from what ``jax.distributed.initialize`` finds: Slurm, Open MPI, TPU pods
    and slices, GKE. Before anything else uses a device; a second call does nothing.

    Args:
        coordinator: HOST:PORT of process 0, free there and reached from all.
        num_processes: Of the run.
        process_id: Of this one, from 0.
        timeout: Seconds that peers are waited for, and after which one that gives no sign of life
            counts as dead (100 at most). JAX ends a process whose peers do not come without
            unwinding it; so does this function, with words and status 2.

    Raises:
        UserError: The three do not fit together, JAX has started already, or processes have
            different numbers of devices.
    """
    if jax.distributed.is_initialized():
        return
    given = _given(coordinator, num_processes, process_id)
    if not given and not _announced():
        return
    if not 1 <= timeout <= 1e6:
        raise UserError(f"--timeout {timeout:g}; give seconds, 1 or more")
    if jax.config.values["jax_cpu_collectives_implementation"] not in ("gloo", "mpi"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    whom = (
        f"process {given['process_id']} of {given['num_processes']} waited" if given else "waited"
    )
    where = f" at {given['coordinator_address']}" if given else ""
    watch = threading.Timer(timeout, _give_up, (f"{whom} {timeout:g} s for its peers{where}",))
    watch.daemon = True
    watch.start()
    try:
        _initialize(given or {"local_device_ids": _devices_of_task()}, timeout)
        if jax.distributed.is_initialized():
            _meet()
    finally:
        watch.cancel()


def leave(status: int, words: Sequence[str] = ()) -> None:
    """Ends one of several processes whose status is not 0: the usual end waits for the others.

    Args:
        status: Of the process; with 0, and alone, it goes on.
        words: What it still has to say.
    """
    if not status or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    print("".join(words), end="", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:  # it is what the others talk through: they may speak first
        time.sleep(_LAST_WORDS)
    os._exit(status)


def _given(coordinator: str, num_processes: int | None, process_id: int | None) -> dict[str, Any]:
    """What ``jax.distributed.initialize`` is to be told; {} leaves it to detection."""
    told = [coordinator or None, num_processes, process_id]
    found: list[Any] = [
        os.environ.get(name) if value is None else value
        for name, value in zip(_VARIABLES, told, strict=True)
    ]
    if all(value is None for value in found):
        return {}
    missing = [
        f"{option} (or {name})"
        for option, name, value in zip(_OPTIONS, _VARIABLES, found, strict=True)
        if value is None
    ]
    if missing:
        if all(value is None for value in told):
            return {}  # variables that are meant for JAX's own detection
        raise UserError(f"several processes need all of {', '.join(_OPTIONS)}; give {missing[0]}")
    address, count, number = found
    try:
        count, number = int(count), int(number)
    except ValueError:
        raise UserError(
            f"{_VARIABLES[1]} {count!r}, {_VARIABLES[2]} {number!r}: give numbers"
        ) from None
    port = str(address).rpartition(":")[2]
    if not (port.isdigit() and 0 <= number < count):
        raise UserError(
            f"--coordinator {address} --num-processes {count} --process-id {number}; give "
            "HOST:PORT of process 0, and an id from 0 to one below the number"
        )
    if count == 1:
        return {}
    return {
        "coordinator_address": str(address),
        "num_processes": count,
        "process_id": number,
        **_bound_to(str(address)),
    }


def _bound_to(address: str) -> dict[str, str]:
    """Where the coordinator listens: on this machine alone where it is reached from there alone.

    JAX would listen on every interface, and whoever reaches the port may join or end the run.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which the other machines reach
        loopback = False
    return {"coordinator_bind_address": address} if loopback else {}


def _announced() -> bool:
    """Whether the environment speaks of several processes that JAX can find, or of a TPU host."""
    variables = os.environ

    def number(name: str) -> int:
        return int(variables.get(name) or 1)

    if variables.get("JAX_NUM_PROCESSES") == "1":
        return False
    if "SLURM_STEP_NODELIST" in variables and "SLURM_PROCID" in variables:
        return number("SLURM_NTASKS") > 1
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return True
    if number("MEGASCALE_NUM_SLICES") > 1 or "," in variables.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    # A Cloud TPU VM tells how many hosts its slice has by its metadata server only: JAX asks there.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _devices_of_task() -> list[int] | None:
    """All GPUs that Slurm gave to this task; left alone, JAX takes one a task."""
    own = "SLURM_GPUS_PER_TASK" in os.environ
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    return list(range(len(visible))) if visible and (own or alone) else None


def _initialize(given: dict[str, Any], timeout: float) -> None:
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=int(timeout) + 60,  # JAX would abort where ``_give_up`` speaks
            heartbeat_timeout_seconds=int(min(timeout, _HEARTBEAT)),
            shutdown_timeout_seconds=int(max(timeout, _HEARTBEAT)),
        )
    except ValueError as error:
        if "should be defined" not in str(error):
            raise
        return  # a TPU host without a pod: one process
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise UserError(
            "JAX has used its devices before it could join the other processes; call "
            "cssl_jax.runtime.distributed.start() first, or start in a new process"
        ) from error


def _meet() -> None:
    """The first collective of all devices, while all processes are here.

    Gloo connects the devices of a collective when it is first met, and gives up on one that is not
    there within 30 s, as happens where one process compiles for longer than the others.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{counts[i]} in process {i}" for i in sorted(counts))
        raise UserError(f"processes must have equally many devices, and have {each}")
    mesh = spmd.make_mesh()
    ones = np.ones(jax.local_device_count(), np.int32)
    total = spmd.data_parallel(lambda _, __, x: jax.lax.psum(x.sum(), spmd.AXIS), mesh)
    assert int(total(None, None, spmd.put_batch(ones, mesh))) == mesh.size


def _give_up(what: str) -> None:
    print(
        f"cssl-jax: {what}, and some did not come; start all of them with the same coordinator and "
        "number of processes, each with its own id, and let them reach that address (firewall, "
        "host name); --timeout waits longer",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
