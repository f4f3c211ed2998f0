"""The commands as a user starts them, timed from outside."""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from measuring import process
from measuring.report import cpu_environment, target

BOUND_SECONDS, BOUND_MEGABYTES = 90.0, 15.0


def run(options: argparse.Namespace) -> dict:
    """Seconds, megabytes and peak memory of each command."""
    with tempfile.TemporaryDirectory() as folder:
        made = process.call(
            "report.made.train",
            timeout=options.timeout,
            environment=cpu_environment(),
            folder=folder,
            validation=options.images,
            training=options.training,
            side=options.side,
        )
        if "failed" in made:
            return {"made": made, "rows": [], "targets": targets([])}
        root = pathlib.Path(folder)
        page = root / "report.html"
        rows = [timed("report", ["report", root / "run", "--output", page], options)]
        rows[0]["megabytes"] = page.stat().st_size / 1e6 if page.is_file() else None
        for kind in options.plots:
            plot = root / f"{kind}.png"
            words = ["plot", root / "run", "--kind", kind, "--output", plot]
            rows.append(timed(f"plot {kind}", words, options))
    return {"made": made, "rows": rows, "targets": targets(rows)}


def timed(name: str, words: list, options: argparse.Namespace) -> dict:
    """One command in a fresh process without programs compiled earlier."""
    environment = {**os.environ, **cpu_environment()}
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", "cssl_jax", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=options.timeout,
    )
    seconds = time.perf_counter() - start
    # The largest child so far; the report, the first and largest, is its own.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    if child.returncode:
        return {"name": name, "failed": child.stderr.strip().splitlines()[-1][:200]}
    return {"name": name, "seconds": seconds, "peak_gigabytes": peak}


def targets(rows: list[dict]) -> list[dict]:
    """Of the report, the first row."""
    first = rows[0] if rows else {}
    return [
        target("seconds of cssl-jax report", [first.get("seconds")], BOUND_SECONDS),
        target("megabytes of report.html", [first.get("megabytes")], BOUND_MEGABYTES),
    ]


def table(section: dict) -> str:
    """A row a command."""
    lines = [f"{'command':<20}{'seconds':>10}{'MB':>8}"]
    for row in section["rows"]:
        if "failed" in row:
            lines.append(f"{row['name']:<20}{row['failed']}")
            continue
        size = f"{row['megabytes']:.1f}" if row.get("megabytes") else ""
        lines.append(f"{row['name']:<20}{row['seconds']:>10.1f}{size:>8}")
    return "\n".join(lines)
