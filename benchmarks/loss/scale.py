"""Section ``scale``: the loss in tiles over five doublings; does its memory grow with the rows?"""

import argparse

import numpy as np
from measuring import process
from measuring.report import cpu_environment, gigabytes, megabytes, target

LARGEST, LARGEST_GB = 65_536, 1.5


def run(options: argparse.Namespace) -> dict:
    """One process a size."""
    rows = []
    for pairs in options.scale_pairs:
        measured = process.call(
            "loss.contenders.measure",
            contender="tiled",
            pairs=pairs,
            seconds=options.seconds,
            environment=cpu_environment(),
            timeout=options.scale_timeout,
            memory_limit=options.memory_limit,
        )
        rows.append({"pairs": pairs, "rows": 2 * pairs, **measured})
    measured = [row for row in rows if "failed" not in row]
    largest = [row.get("peak_bytes") for row in rows if row["pairs"] == LARGEST]
    gigabyte = [None if size is None else size / 1e9 for size in largest]
    return {
        "rows": rows,
        "fit": linear(measured) if len(measured) > 2 else None,
        "targets": [target("whole process at 65,536 pairs, GB", gigabyte, LARGEST_GB)],
    }


def linear(rows: list[dict]) -> dict:
    """Least squares of a process's whole peak against its rows."""
    count = np.array([row["rows"] for row in rows], float)
    size = np.array([row["peak_bytes"] for row in rows], float)
    slope, intercept = np.polyfit(count, size, 1)
    residuals = size - (slope * count + intercept)
    variance = np.sum((size - size.mean()) ** 2)
    return {
        "bytes_per_row": float(slope),
        "intercept_bytes": float(intercept),
        "residual_bytes": residuals.tolist(),
        "r_squared": float(1 - np.sum(residuals**2) / variance) if variance else 1.0,
    }


def table(section: dict) -> str:
    lines = [
        f"{'pairs':>7}{'rows':>9}{'time, s':>10}{'in all':>10}{'memory':>10}{'off the line':>14}"
    ]
    fit = section["fit"]
    residuals = iter(fit["residual_bytes"] if fit else [])
    for row in section["rows"]:
        name = f"{row['pairs']:>7,}{row['rows']:>9,}"
        if "failed" in row:
            lines.append(f"{name}  {row['failed']}")
            continue
        off = megabytes(next(residuals)) if fit else "-"
        sizes = f"{gigabytes(row['peak_bytes']):>10}{megabytes(row['memory_bytes']):>10}"
        lines.append(f"{name}{row['time_s']:>10.3f}{sizes}{off:>14}")
    lines.append("in all: the process's peak; memory: over libraries and data")
    if fit:
        lines.append(
            f"in all = {megabytes(fit['intercept_bytes'])} + {fit['bytes_per_row']:,.0f} bytes a "
            f"row, R^2 = {fit['r_squared']:.4f}"
        )
    return "\n".join(lines)
