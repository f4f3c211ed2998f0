"""The process: platform, devices, compile cache, signals."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import signal
import time
import types
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from cssl_jax import parallel
from cssl_jax.errors import InterruptedRunError, UserError
from cssl_jax.files import cache_folder
from cssl_jax.version import __version__

_CACHE = "jax_compilation_cache_dir"


def set_compile_cache(folder: str) -> str | None:
    """Keeps compiled programs from one process to the next; a cache set from outside stays.

    Args:
        folder: Where; "" is ``files.cache_folder("compile")``, "off" is nowhere.

    Returns:
        The folder in use, or None.
    """
    if folder == "off":
        jax.config.update(_CACHE, None)
        return None
    if folder or not jax.config.values[_CACHE]:
        path = pathlib.Path(folder).expanduser() if folder else cache_folder("compile")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None  # a cache is a convenience; a read-only home is no reason to stop
        jax.config.update(_CACHE, str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return jax.config.values[_CACHE]


def make_mesh(devices: int) -> Mesh:
    """A mesh over the first ``devices`` devices; 0 is all.

    Raises:
        UserError: There are fewer, or a part was asked for with several processes.
    """
    available = jax.devices()
    if devices and jax.process_count() > 1 and devices != len(available):
        raise UserError(f"runtime.devices {devices} on several processes; leave it 0, which is all")
    if devices > len(available):
        raise UserError(
            f"runtime.devices is {devices}, but there are {len(available)} "
            f"({available[0].platform}); use at most {len(available)}, or simulate more CPUs: "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        )
    return parallel.make_mesh(available[: devices or None])


def refuse_several_processes(what: str) -> None:
    """Raises UserError where JAX's distributed runtime has started more than one process."""
    if jax.process_count() > 1:
        raise UserError(
            f"{what} runs in one process for now, not in {jax.process_count()}; start it on one "
            "host, with all of that host's devices"
        )


def device_memory(device: jax.Device) -> int | None:
    """Bytes a device may use, or None where it does not tell (CPU)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def versions() -> dict[str, str]:
    """Of this package and of what computes for it."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"cssl_jax": __version__, **found}


def process_age() -> float | None:
    """Seconds since this process was started; None where the system does not tell (not Linux)."""
    try:
        # Fields after the command's name, which may hold anything but ends with the last bracket.
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def environment(mesh: Mesh) -> dict[str, str]:
    """The machine in words: python, system, devices and cores of this host."""
    device = mesh.devices.flat[0]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": f"{mesh.size} x {device.device_kind} ({device.platform})",
        "cores": str(os.cpu_count()),
    }


class Interruption:
    """What a signal does to a run: it is noted, so that the loop can save before it stops.

    While the main thread waits for something that may be given up (``breakable``), the signal
    raises InterruptedRunError there; elsewhere it only sets ``signal_number``.
    """

    signal_number: int | None = None
    _breakable = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        """The handler; a second signal of the same kind is not held back."""
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else _interrupt)
        if self._breakable:
            raise InterruptedRunError(self.name)

    @property
    def name(self) -> str:
        """Of the signal, "" where none came."""
        return signal.Signals(self.signal_number).name if self.signal_number else ""

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """Within it a signal, or one that was noted before, raises InterruptedRunError at once."""
        self._breakable = True
        try:
            if self.signal_number:
                raise InterruptedRunError(self.name)
            yield
        finally:
            self._breakable = False


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def catch_signals() -> Iterator[Interruption]:
    """Within it SIGTERM and SIGINT are noted; outside the main thread it does nothing."""
    interruption = Interruption()
    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread, as in some notebooks
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
