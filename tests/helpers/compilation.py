"""XLA options that compile quickly, and one folder of compiled programs for every test process."""

import hashlib
import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
import platform
import tempfile

# Tests compile far more than they compute. The emitters through MLIR take twice as long to compile.
_OPTIONS = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_llvm_disable_expensive_passes": "true",
}


def cheap_flags():
    """XLA_FLAGS for a child process that chooses its number of devices itself.

    An option that the installed jaxlib does not have would end the process, and is omitted. A
    withdrawn one is still a field of its messages; a registered one is also a string of its own.
    """
    folder = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    library = folder / "libjax_common.so"
    if not library.exists():
        return "--xla_backend_optimization_level=0"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        known = [name for name in _OPTIONS if text.find(f"\0{name}\0".encode()) >= 0]
    return " ".join(f"--{name}={_OPTIONS[name]}" for name in known)


def keep_to_one_core():
    """Keep each of several test processes, and its children, to a core of its own.

    Otherwise every process has as many threads as there are cores, which wait for each other in
    loops: 7 % of the CPU time on two cores.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        if workers <= len(cores):
            # A worker that replaces one that has crashed has a higher number.
            os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def users_environment():
    """Variables of a child that starts as a user's process: neither these options nor devices.

    The options make a run of minutes several times slower.
    """
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def shared_folder():
    """A folder outside the clone that outlives the run, for this user alone.

    It is in the system's temporary folder; $CSSL_TEST_CACHE names another.
    """
    default = pathlib.Path(tempfile.gettempdir()) / f"cssl-jax-tests-{os.getuid()}"
    folder = pathlib.Path(os.environ.get("CSSL_TEST_CACHE") or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; let CSSL_TEST_CACHE name another")
    return folder


def program_folder():
    """Folder of programs compiled by these versions on this kind of processor."""
    packages = "-".join(importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith("flags")), platform.machine())
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    return shared_folder() / f"programs-{packages}-{digest}"


def environment():
    """Variables by which JAX keeps every compiled program, in this process and its children."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(program_folder()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
