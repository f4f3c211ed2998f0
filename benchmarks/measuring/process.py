"""A function in a process of its own: its metrics, or the reason why there are none.

``call("loss.contenders.measure", pairs=512)`` runs that function in a new interpreter,
possibly one of another environment, and takes the JSON that it returns.
"""

import contextlib
import importlib
import json
import math
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
OUT_OF_MEMORY = "out of memory"
MEMORY_WORDS = (
    "resource_exhausted",
    OUT_OF_MEMORY,
    "memoryerror",
    "bad_alloc",
    "not enough memory",
    "allocate memory",
)
# A flag or cache of the caller's would change what is compiled, or hide how long it takes.
DROPPED = ("XLA_FLAGS", "JAX_")
KEPT = ("JAX_PLATFORMS",)


def call(
    function: str,
    *,
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    timeout: float = 900,
    memory_limit: float | None = None,
    **arguments: object,
) -> dict:
    """Metrics of ``function(**arguments)``, "package.module.name" below ``benchmarks``.

    Args:
        function: Returns a dict that JSON can hold.
        python: Interpreter.
        environment: Variables on top of this process's own.
        timeout: Seconds.
        memory_limit: GB resident at which the process is ended, so that one that wants more than
            there is does not draw the system's out-of-memory killer on others; None is no limit.
        arguments: Of the function; JSON can hold them.

    Returns:
        The dict, or {"failed": why}.
    """
    kept = {k: v for k, v in os.environ.items() if k in KEPT or not k.startswith(DROPPED)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        try:
            child = subprocess.Popen(
                [python, "-m", "measuring.process", function, json.dumps(arguments)],
                cwd=BENCHMARKS,
                env={**kept, **(environment or {})},
                stdout=out,
                stderr=errors,
            )
        except OSError as error:
            return {"failed": f"not started: {error.strerror}"}
        with child:
            ended = _watch(child, timeout, (memory_limit or math.inf) * 1e9)
        out.seek(0)
        errors.seek(0)
        if ended or child.returncode:
            return {"failed": ended or cause(child.returncode, errors.read())}
        try:
            return json.loads(out.read().splitlines()[-1])
        except (IndexError, ValueError):
            return {"failed": "ended without a result"}


def _watch(child: subprocess.Popen, timeout: float, limit: float) -> str | None:
    """Waits for its end; ends it, and says why, once it is too long or too large."""
    status = f"/proc/{child.pid}/status"
    end = time.monotonic() + timeout
    try:
        while True:
            try:
                child.wait(0.05)
                return None
            except subprocess.TimeoutExpired:
                if (_field(status, "VmRSS") or 0) > limit:
                    return f"{OUT_OF_MEMORY}: more than {limit / 1e9:g} GB"
                if time.monotonic() > end:
                    return f"longer than {timeout:g} s"
    finally:
        if child.returncode is None:
            child.kill()


def cause(code: int, errors: str) -> str:
    """Why a process died, from its exit code and what it wrote; without this machine's paths."""
    # Nothing but the kernel's out-of-memory killer sends SIGKILL here.
    if code == -signal.SIGKILL or any(word in errors.lower() for word in MEMORY_WORDS):
        return OUT_OF_MEMORY
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    last = errors.strip().splitlines()[-1:] or ["no message"]
    return f"exit {code}: " + re.sub(r"(/[\w.+-]+)*/", "", last[0])[:200]


def default_memory_limit() -> float | None:
    """GB: most of what the system could give now; None where it does not report it."""
    free = _field("/proc/meminfo", "MemAvailable")
    return None if free is None else round(0.85 * free / 1e9, 1)


def resident_bytes() -> int:
    """Of this process, now."""
    return _field("/proc/self/status", "VmRSS") or _largest_by_rusage()


def peak_bytes() -> int:
    """High-water mark of this process's resident memory, as the kernel keeps it.

    VmHWM belongs to this program alone, whereas ru_maxrss begins, after fork and exec, at what the
    parent had; and it misses no short peak, as a thread that samples would.
    """
    return _field("/proc/self/status", "VmHWM") or _largest_by_rusage()


def reset_peak() -> None:
    """Resets the high-water mark to what is resident now; Linux only."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _field(path: str, name: str) -> int | None:
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


def _largest_by_rusage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main(function: str, arguments: str) -> None:
    module, _, name = function.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    print(json.dumps(found(**json.loads(arguments))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
