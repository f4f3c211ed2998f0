"""Sections ``sweep`` and ``single``: logistic regression beside scikit-learn, equally solved."""

import argparse
import statistics

from measuring import process
from measuring.report import cpu_environment, megabytes, target

from evaluation.contenders import PROBES

GAP = 1e-4  # above the lowest objective anyone reached, as a share of it
PENALTIES = [10.0 ** (-6 + e / 4) for e in range(45)]


def run_sweep(options: argparse.Namespace) -> dict:
    return _run(options, PENALTIES, 3.0, "45 penalties")


def run_single(options: argparse.Namespace) -> dict:
    return _run(options, [options.l2], 1.0, f"penalty {options.l2:g}")


def _run(options: argparse.Namespace, l2_values: list[float], faster: float, what: str) -> dict:
    """Ours, and scikit-learn's with and without warm start at several tolerances.

    Compared with is the fastest of its runs whose objectives are all within ``GAP``.
    """
    plans = [("ours", options.precision)]
    loops = ("sklearn", "sklearn-warm") if len(l2_values) > 1 else ("sklearn",)
    plans += [(name, tolerance) for tolerance in options.tolerances for name in loops]
    rows = [_row(name, tolerance, l2_values, options) for name, tolerance in plans]
    measured = [row for row in rows if "failed" not in row]
    lowest = [min(values) for values in zip(*(row["objectives"] for row in measured), strict=True)]
    for row in measured:
        pairs = zip(row["objectives"], lowest, strict=True)
        row["gap"] = max(value / least - 1 for value, least in pairs)
    ours = rows[0]
    valid = [row for row in measured[1:] if row["gap"] <= GAP] if measured[:1] == [ours] else []
    peer = min(valid, key=lambda row: row["time_s"], default=None)
    metrics: dict[str, float | None] = dict.fromkeys(("ratio", "first", "gap", "points"))
    if peer:
        best = max(range(len(l2_values)), key=lambda i: peer["accuracies"][i])
        metrics = {
            "ratio": peer["time_s"] / ours["time_s"],
            "first": peer["first_s"] / ours["first_s"],
            "gap": ours["gap"],
            "points": 100 * abs(peer["accuracies"][best] - ours["accuracies"][best]),
        }
    return {
        "l2_values": l2_values,
        "rows": rows,
        "compared_with": peer and f"{peer['contender']}, tol {peer['tolerance']:g}",
        "ratio": metrics["ratio"],
        "first_ratio": metrics["first"],
        "targets": [
            target(f"{what}: times as fast as scikit-learn", [metrics["ratio"]], faster,
                   at_least=True),
            target(f"{what}: the same, compiling included", [metrics["first"]], faster,
                   at_least=True),
            target(f"{what}: objective above the lowest", [metrics["gap"]], GAP),
            target(f"{what}: accuracy at its best, points apart", [metrics["points"]], 0.2),
        ],
    }  # fmt: skip


def _row(name: str, tolerance: float, l2_values: list[float], options: argparse.Namespace) -> dict:
    ours = name == "ours"
    found = process.call(
        "evaluation.contenders.probe",
        contender=name,
        rows=options.bank,
        tested=options.queries,
        width=options.width,
        l2_values=l2_values,
        tolerance=tolerance,
        # A loop of scikit-learn's takes a minute, and nothing in it is done once only.
        repeats=options.repeats if ours or len(l2_values) == 1 else 0,
        python=options.own_python if ours else options.peer_python,
        environment=cpu_environment(),
        timeout=options.timeout,
    )
    row = {"contender": name, "tolerance": tolerance, **found}
    if "failed" not in found:
        row["time_s"] = statistics.median(found["times_s"] or [found["first_s"]])
    return row


def table(section: dict) -> str:
    lines = [
        f"{'contender':<34}{'tol':>8}{'time, s':>10}{'first, s':>10}{'gap':>10}{'best top-1':>12}"
        f"{'peak':>10}"
    ]
    for row in section["rows"]:
        name = f"{PROBES[row['contender']]:<34}{row['tolerance']:>8.0e}"
        if "failed" in row:
            lines.append(f"{name}  {row['failed']}")
            continue
        lines.append(
            f"{name}{row['time_s']:>10.2f}{row['first_s']:>10.2f}{row['gap']:>10.1e}"
            f"{max(row['accuracies']):>12.4f}{megabytes(row['peak_bytes']):>10}"
        )
    lines.append(
        f"gap: above the lowest objective that anyone reached, the largest of all penalties, as a "
        f"share; compared with: {section['compared_with']}"
    )
    return "\n".join(lines)
