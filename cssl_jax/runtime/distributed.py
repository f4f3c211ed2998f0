"""Starts and ends a process that is one of several under JAX's distributed runtime."""

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

TIMEOUT = 300.0  # seconds to wait for the other processes
_HEARTBEAT = 100.0  # maximum seconds without a heartbeat; JAX's own default
_EXIT_DELAY = 3.0  # seconds that process 0 waits, so that the others can still print errors
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_OPTIONS = ("--coordinator", "--num-processes", "--process-id")


def start(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = TIMEOUT,
) -> None:
    """Joins the other processes of this run, if there are any; a single process does not wait.

    Omitted arguments come from the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, else from the detection of ``jax.distributed.initialize``: Slurm, Open MPI, TPU
    pods and slices, GKE. Must be called before anything uses a device; a second call does nothing.

    Args:
        coordinator: HOST:PORT of process 0: a free port there that all processes can reach.
        num_processes: Number of processes of the run.
        process_id: Number of this process, from 0.
        timeout: Seconds to wait for the other processes, and after which a process without a
            heartbeat counts as dead (at most 100 for the latter). If peers do not arrive, JAX
            ends the process without unwinding its stack. So does this function, with a message
            and exit status 2.

    Raises:
        UserError: The three arguments do not fit together, JAX has started already, or processes
            have different numbers of devices.
    """
    if jax.distributed.is_initialized():
        return
    arguments = _arguments(coordinator, num_processes, process_id)
    if not arguments and not _is_announced():
        return
    if not 1 <= timeout <= 1e6:
        raise UserError(f"--timeout {timeout:g}; give seconds, 1 or more")
    if jax.config.values["jax_cpu_collectives_implementation"] not in ("gloo", "mpi"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    process = "this process"
    address = ""
    if arguments:
        process = f"process {arguments['process_id']} of {arguments['num_processes']}"
        address = f" at {arguments['coordinator_address']}"
    message = f"{process} waited {timeout:g} s for its peers{address}"
    watchdog = threading.Timer(timeout, _give_up, (message,))
    watchdog.daemon = True
    watchdog.start()
    try:
        _initialize(arguments or {"local_device_ids": _devices_of_task()}, timeout)
        if jax.distributed.is_initialized():
            _connect_devices()
    finally:
        watchdog.cancel()


def exit_process(status: int, lines: Sequence[str] = ()) -> None:
    """Exits one of several processes if its status is not 0.

    Python's regular exit would wait for the other processes.

    Args:
        status: Exit status; with 0, or with a single process, the function returns.
        lines: Lines of text to print on standard error.
    """
    if not status or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    print("".join(lines), end="", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        # Process 0 hosts the coordinator, without which the others cannot report their errors.
        time.sleep(_EXIT_DELAY)
    os._exit(status)


def _arguments(
    coordinator: str, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """Arguments of ``jax.distributed.initialize`` from options and variables; {} to detect them."""
    options = [coordinator or None, num_processes, process_id]
    values: list[Any] = [
        os.environ.get(name) if option is None else option
        for name, option in zip(_VARIABLES, options, strict=True)
    ]
    if all(value is None for value in values):
        return {}
    missing = [
        f"{option} (or {name})"
        for option, name, value in zip(_OPTIONS, _VARIABLES, values, strict=True)
        if value is None
    ]
    if missing:
        if all(option is None for option in options):
            return {}  # the variables are meant for JAX's own detection
        raise UserError(f"several processes need all of {', '.join(_OPTIONS)}; give {missing[0]}")
    address, count, number = values
    try:
        count, number = int(count), int(number)
    except ValueError:
        raise UserError(
            f"{_VARIABLES[1]} {count!r}, {_VARIABLES[2]} {number!r}: give whole numbers"
        ) from None
    port = str(address).rpartition(":")[2]
    if not (port.isdigit() and 0 <= number < count):
        raise UserError(
            f"--coordinator {address} --num-processes {count} --process-id {number}; give "
            "HOST:PORT of process 0, and an id from 0 to the number of processes minus 1"
        )
    if count == 1:
        return {}
    return {
        "coordinator_address": str(address),
        "num_processes": count,
        "process_id": number,
        **_bind_address(str(address)),
    }


def _bind_address(address: str) -> dict[str, str]:
    """Argument that binds the coordinator to a loopback address; {} for any other address.

    By default JAX listens on every interface, and anyone who reaches the port can join or end the
    run.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name, under which other machines connect
        loopback = False
    return {"coordinator_bind_address": address} if loopback else {}


def _is_announced() -> bool:
    """Whether the environment describes several processes that JAX can detect, or a TPU host."""
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
    # On a Cloud TPU VM only the metadata server knows the number of hosts, and JAX queries it.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _devices_of_task() -> list[int] | None:
    """Indices of all GPUs that Slurm assigned to this task; by default JAX uses one per task.

    None leaves the choice to JAX: several tasks of a node see the same GPUs, or there is none.
    """
    has_own_gpus = "SLURM_GPUS_PER_TASK" in os.environ
    is_only_task = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    return list(range(len(visible))) if visible and (has_own_gpus or is_only_task) else None


def _initialize(arguments: dict[str, Any], timeout: float) -> None:
    """Calls ``jax.distributed.initialize``; raises UserError if JAX has started already."""
    try:
        jax.distributed.initialize(
            **arguments,
            # JAX aborts without a plain message when this is over; ``_give_up`` must come first.
            initialization_timeout=int(timeout) + 60,
            heartbeat_timeout_seconds=int(min(timeout, _HEARTBEAT)),
            shutdown_timeout_seconds=int(max(timeout, _HEARTBEAT)),
        )
    except ValueError as error:
        if "should be defined" not in str(error):
            raise
        return  # a TPU host that is not part of a pod: a single process
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise UserError(
            "JAX used its devices before it joined the other processes; call "
            "cssl_jax.runtime.distributed.start() first, or start in a new process"
        ) from error


def _connect_devices() -> None:
    """Runs a first collective over all devices, while all processes are known to be present.

    Gloo connects the devices of a collective when it first runs, and fails after 30 s if one is
    missing. That happens later, if one process compiles for longer than the others.

    Raises:
        UserError: Processes have different numbers of devices.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{counts[i]} in process {i}" for i in sorted(counts))
        raise UserError(f"all processes must have the same number of devices, and have {each}")
    mesh = spmd.make_mesh()
    ones = np.ones(jax.local_device_count(), np.int32)
    total = spmd.data_parallel(lambda _, __, x: jax.lax.psum(x.sum(), spmd.AXIS), mesh)
    assert int(total(None, None, spmd.put_batch(ones, mesh))) == mesh.size


def _give_up(message: str) -> None:
    """Exits with status 2 after printing a message about missing processes."""
    print(
        f"cssl-jax: {message}, and some did not join; start all of them with the same coordinator "
        "and number of processes, each with its own id, and make sure that they can reach that "
        "address (firewall, host name); --timeout waits longer",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
