"""What the sections share: the CPU's environment, targets with their verdicts, cells of tables."""

import importlib.metadata
import os
import pathlib
import platform
import statistics

PACKAGES = ("cssl_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def cpu_environment() -> dict[str, str]:
    """Of a process that measures on the CPU, with no programs compiled earlier."""
    return {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def machine() -> str:
    """CPU model and cores."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {platform.machine()}"


def versions() -> dict[str, str]:
    """Of Python and of what computes; read without importing any of it."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # a checkout on the path has no metadata


def target(text: str, values: list[float | None], bound: float, *, at_least: bool = False) -> dict:
    """A verdict: no value may be above ``bound``, or below it with ``at_least``.

    One value beyond it misses. It is met only where every value was measured: a contender that
    failed is no win.
    """
    known = [value for value in values if value is not None]
    missed = any(value < bound if at_least else value > bound for value in known)
    worst = min if at_least else max
    return {
        "target": text,
        "bound": bound,
        "at_least": at_least,
        "figure": worst(known, default=None),
        "met": False if missed else True if values and len(known) == len(values) else None,
    }


def verdict(found: dict) -> str:
    """One line."""
    label = {True: "met", False: "MISSED", None: "not measured"}[found["met"]]
    value = "-" if found["figure"] is None else f"{found['figure']:.4g}"
    side = "at least" if found["at_least"] else "at most"
    if found["met"] is None and found["figure"] is not None:
        label += " in full"
    return f"{label:<22}{found['target']:<56}{value:>10} ({side} {found['bound']:.4g})"


def megabytes(size: float) -> str:
    """A size in megabytes (1e6 bytes) as text."""
    return f"{size / 1e6:,.0f} MB"


def gigabytes(size: float) -> str:
    """A size in gigabytes (1e9 bytes) as text."""
    return f"{size / 1e9:.2f} GB"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.1f} +- {deviation:.1f}"


def span(values: list[float], form: str = ".3g") -> str:
    """Smallest and largest."""
    return f"({min(values):{form}} - {max(values):{form}})"
