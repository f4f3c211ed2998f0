"""Which kernels a step spends its time in, from a trace of a few steps."""

import collections
import gzip
import pathlib
import re
from collections.abc import Callable
from typing import Any

TOP = 25  # kernels named in the summary


def trace(step: Callable[[], Any], folder: pathlib.Path, steps: int = 4) -> dict[str, Any]:
    """Traces a few warmed-up steps into ``folder`` and sums the time of each kernel.

    Args:
        step: Takes one step and returns arrays to wait for.
        folder: Where the trace is kept.
        steps: Number of steps traced.

    Returns:
        Per step: ``busy_ms`` (some kernel runs), ``span_ms`` (first start to last end over the
        steps), ``kernels`` (launches), and ``top``, rows (name, launches, ms).
    """
    import jax

    for _ in range(2):
        jax.block_until_ready(step())
    with jax.profiler.trace(folder):
        for _ in range(steps):
            last = step()
        jax.block_until_ready(last)
    files = sorted(folder.rglob("*.xplane.pb"))
    return summary(files[-1], steps) if files else {"failed": "no trace was written"}


def summary(path: pathlib.Path, steps: int) -> dict[str, Any]:
    """``trace``'s result from a written trace of ``steps`` steps."""
    from jax.profiler import ProfileData

    events: list[tuple[float, float, str]] = []
    for plane in ProfileData.from_file(str(path)).planes:
        if "/device:" not in plane.name:
            continue
        lines = list(plane.lines)
        # A GPU's plane has a line per stream (and may repeat them by operation); a TPU's has not.
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams or [line for line in lines if line.name == "XLA Ops"]:
            events += [(e.start_ns, e.duration_ns, e.name) for e in line.events]
    if not events:
        return {"failed": "the trace has no device events"}
    by_name: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    for _, duration, name in events:
        row = by_name[re.sub(r"[._]\d+$", "", name)]
        row[0] += 1
        row[1] += duration
    top = sorted(by_name.items(), key=lambda item: -item[1][1])[:TOP]
    ends = [start + duration for start, duration, _ in events]
    return {
        "busy_ms": _union(events) / steps / 1e6,
        "span_ms": (max(ends) - min(start for start, _, _ in events)) / steps / 1e6,
        "kernels": len(events) / steps,
        "top": [(name[:80], count / steps, ns / steps / 1e6) for name, (count, ns) in top],
    }


def _union(events: list[tuple[float, float, str]]) -> float:
    """Nanoseconds during which at least one event runs."""
    total, reached = 0.0, float("-inf")
    for start, duration, _ in sorted(events):
        total += max(0.0, start + duration - max(start, reached))
        reached = max(reached, start + duration)
    return total


def keep_program(compiled: Any, path: pathlib.Path) -> None:
    """Writes the optimised program's text, compressed."""
    with gzip.open(path, "wt") as file:
        file.write(compiled.as_text())
