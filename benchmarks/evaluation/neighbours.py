"""Section ``knn``: exact neighbours beside scikit-learn's and faiss's, in interleaved rounds."""

import argparse
import statistics

from measuring import process
from measuring.report import cpu_environment, megabytes, span, target

from evaluation.contenders import KNN

PEERS = ("faiss", "sklearn", "sklearn-euclidean")
ALLOWED = 1.2  # times the fastest peer
MEMORY = 1e9  # bytes


def run(options: argparse.Namespace) -> dict:
    rounds: dict[str, list[dict]] = {name: [] for name in KNN}
    for _ in range(options.rounds):
        for name, done in rounds.items():
            if not done or "failed" not in done[-1]:
                done.append(_measure(name, options))
    rows = [_row(name, done) for name, done in rounds.items()]
    _refuse_other_neighbours(rows)
    by_name = {row["contender"]: row for row in rows}
    ours = by_name["ours"]
    peers = [by_name[name] for name in PEERS if "failed" not in by_name[name]]
    fastest = min(peers, key=lambda row: row["time_s"], default=None)
    # A claim over the faster of two needs both.
    complete = "failed" not in ours and len(peers) == len(PEERS)
    ratio = ours["time_s"] / fastest["time_s"] if complete and fastest else None
    above = None if "failed" in ours else ours["above_features_bytes"] / MEMORY
    votes = by_name["ours-votes"]
    return {
        "rows": rows,
        "fastest_peer": fastest and fastest["contender"],
        "targets": [
            target("time / the fastest peer's, neighbours", [ratio], ALLOWED),
            target(
                "time / the fastest peer's, with votes of 8 k's",
                [votes["time_s"] / fastest["time_s"] if ratio and "failed" not in votes else None],
                ALLOWED,
            ),
            target("whole process above the features, GB", [above], 1.0),
        ],
    }


def _measure(name: str, options: argparse.Namespace) -> dict:
    return process.call(
        "evaluation.contenders.knn",
        contender=name,
        bank=options.bank,
        queries=options.queries,
        width=options.width,
        k=options.k,
        repeats=options.repeats,
        python=options.peer_python if name in PEERS else options.own_python,
        environment=cpu_environment(),
        timeout=options.timeout,
    )


def _row(name: str, rounds: list[dict]) -> dict:
    failed = [measured["failed"] for measured in rounds if "failed" in measured]
    if failed:
        return {"contender": name, "failed": failed[0]}
    times = [time for measured in rounds for time in measured["times_s"]]
    checks = ("similarity", "farthest", "top1", "versions")
    return {
        "contender": name,
        "time_s": statistics.median(times),
        "times_s": times,
        "first_s": statistics.median(measured["first_s"] for measured in rounds),
        "peak_bytes": max(measured["peak_bytes"] for measured in rounds),
        "above_features_bytes": max(f["peak_bytes"] - f["features_bytes"] for f in rounds),
        **{key: rounds[0][key] for key in checks if key in rounds[0]},
    }


def _refuse_other_neighbours(rows: list[dict]) -> None:
    """A search that finds other neighbours is no contender; ours must find the peers'."""
    checked = [row for row in rows if "similarity" in row]
    for row in checked[1:]:
        for key in ("similarity", "farthest"):
            if abs(row[key] - checked[0][key]) > 1e-5:  # float32 distances, squared and back
                row["failed"] = f"another {key}: {row[key]:.6f} for {checked[0][key]:.6f}"


def table(section: dict) -> str:
    lines = [
        f"{'contender':<32}{'time, s':>9} {'(runs)':<15}{'first, s':>9}{'above features':>16}"
        f"{'k-th similarity':>17}"
    ]
    for row in section["rows"]:
        name = f"{KNN[row['contender']]:<32}"
        if "failed" in row:
            lines.append(f"{name}  {row['failed']}")
            continue
        farthest = f"{row['farthest']:.5f}" if "farthest" in row else f"top-1 {row['top1']:.4f}"
        lines.append(
            f"{name}{row['time_s']:>9.2f} {span(row['times_s']):<15}{row['first_s']:>9.2f}"
            f"{megabytes(row['above_features_bytes']):>16}{farthest:>17}"
        )
    lines.append("above features: peak of the whole process, interpreter and libraries included")
    return "\n".join(lines)
