"""The process: platform, devices, compile cache, signals."""

import contextlib
import hashlib
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

from cssl_jax.errors import InterruptedRunError, UserError
from cssl_jax.files import cache_folder
from cssl_jax.runtime import distributed, multihost, platforms, spmd
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
        UserError: There are fewer, a part was asked for with several processes, or the platform
            that JAX was asked for is not there.
    """
    platforms.require()
    available = jax.devices()
    if devices and not multihost.is_single_process() and devices != len(available):
        raise UserError(f"runtime.devices {devices} on several processes; leave it 0, which is all")
    if devices > len(available):
        raise UserError(
            f"runtime.devices is {devices}, but there are {len(available)} "
            f"({available[0].platform}); use at most {len(available)}, or simulate more CPUs: "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        )
    return spmd.make_mesh(available[: devices or None])


def device_memory(device: jax.Device) -> int | None:
    """Bytes a device may use, or None where it does not tell (CPU)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def versions() -> dict[str, str]:
    """Of this package and of what computes for it."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"cssl_jax": __version__, **found}


def join(command: str) -> None:
    """Joins the other processes that run this command, where there are some; see ``distributed``.

    Raises:
        UserError: They run another command, or other code.
    """
    distributed.start()
    platforms.require()
    if not multihost.is_single_process():
        multihost.require_same({"command": command, **versions(), "cssl_jax's code": _source()})


def _source() -> str:
    """A digest of this package's code, which its version does not tell apart."""
    digest = hashlib.sha256()
    folder = pathlib.Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


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
    raises InterruptedRunError there; elsewhere it only sets ``signal_number``. What several
    processes do together is not given up by one of them: they agree on it.
    """

    signal_number: int | None = None
    _breakable = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        """The handler; a second signal of the same kind is not held back."""
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else _interrupt)
        if self._breakable:
            raise InterruptedRunError(self.name)
        words = "the run ends after the steps in flight and a save; another signal ends it at once"
        with contextlib.suppress(OSError):  # not by print, which a signal may have interrupted
            os.write(2, f"\n{self.name}: {words}\n".encode())

    @property
    def name(self) -> str:
        """Of the signal, "" where none came."""
        return signal.Signals(self.signal_number).name if self.signal_number else ""

    @contextlib.contextmanager
    def breakable(self, *, shared: bool = False) -> Iterator[None]:
        """Within it a signal, or one that was noted before, raises InterruptedRunError at once.

        Args:
            shared: Other processes take part, where there are some: then it does not.
        """
        if shared and not multihost.is_single_process():
            yield
            return
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
