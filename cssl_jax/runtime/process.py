"""The current process: devices, compile cache, versions, environment, signals."""

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
    """Sets the folder in which JAX caches compiled programs across processes.

    Args:
        folder: Folder of the cache. "" keeps the folder that JAX is already configured with; if
            there is none, it uses ``files.cache_folder("compile")``. "off" disables the cache.

    Returns:
        The folder in use; None if the cache is disabled or its folder cannot be created.
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
    used: str | None = jax.config.values[_CACHE]
    return used


def make_mesh(devices: int) -> Mesh:
    """Creates a mesh over the first ``devices`` devices; 0 uses all.

    Raises:
        UserError: There are fewer devices, a subset was requested with several processes, or the
            requested platform cannot start.
    """
    platforms.require()
    available = jax.devices()
    if devices and not multihost.is_single_process() and devices != len(available):
        raise UserError(f"runtime.devices is {devices} with several processes; use 0, which is all")
    if devices > len(available):
        raise UserError(
            f"runtime.devices is {devices}, but there are {len(available)} "
            f"({available[0].platform}); use at most {len(available)}, or simulate more CPUs: "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        )
    return spmd.make_mesh(available[: devices or None])


def device_memory(device: jax.Device) -> int | None:
    """Memory that JAX may use on a device in bytes; None if it does not report it (CPU)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def versions() -> dict[str, str]:
    """Versions of cssl_jax and of the packages that determine its results, by name."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {"cssl_jax": __version__, **installed}


def join_processes(command: str) -> None:
    """Joins the other processes of this command, if there are any; see ``distributed.start``.

    Args:
        command: Name of the command, which must be the same in all processes.

    Raises:
        UserError: The processes run different commands, versions or code.
    """
    distributed.start()
    platforms.require()
    if not multihost.is_single_process():
        multihost.require_same(
            {"command": command, **versions(), "cssl_jax's code": _source_digest()}
        )


def _source_digest() -> str:
    """Digest of this package's code, which can differ between copies of the same version."""
    digest = hashlib.sha256()
    folder = pathlib.Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def process_age() -> float | None:
    """Seconds since this process was started; None on systems other than Linux."""
    try:
        # The command's name may contain spaces and brackets; the fields follow the last bracket.
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def environment(mesh: Mesh) -> dict[str, str]:
    """Descriptions of this host: Python version, system, devices and number of CPU cores."""
    device = mesh.devices.flat[0]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": f"{mesh.size} x {device.device_kind} ({device.platform})",
        "cores": str(os.cpu_count()),
    }


class SignalRecorder:
    """Signal handler that records a signal, so that the training loop can save before it stops.

    While the main thread waits in a block that may be abandoned (``breakable``), the signal raises
    InterruptedRunError there. Elsewhere it only sets ``signal_number``. One process alone does not
    abandon what several do collectively: they first reach a consensus.

    Attributes:
        signal_number: Number of the signal that arrived; None if none did.
    """

    signal_number: int | None = None
    _breakable = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        """Handles a signal; a second signal of the same kind then has its default effect."""
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else _interrupt)
        if self._breakable:
            raise InterruptedRunError(self.name)
        text = "the run ends after the steps in flight and a save; another signal ends it at once"
        with contextlib.suppress(OSError):  # not print: the signal may have interrupted a print
            os.write(2, f"\n{self.name}: {text}\n".encode())

    @property
    def name(self) -> str:
        """Name of the signal that arrived, such as "SIGTERM"; "" if none did."""
        return signal.Signals(self.signal_number).name if self.signal_number else ""

    @contextlib.contextmanager
    def breakable(self, *, shared: bool = False) -> Iterator[None]:
        """Context in which a signal, also an earlier one, raises InterruptedRunError at once.

        Args:
            shared: Whether all processes of the run take part in the block. With several processes
                a signal then raises nothing.
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
def catch_signals() -> Iterator[SignalRecorder]:
    """Context that records SIGTERM and SIGINT; has no effect outside the main thread."""
    signals = SignalRecorder()
    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread, as in some notebooks
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
