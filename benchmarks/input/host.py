"""Section ``host``: views/s and memory of pipelines on all cores, in interleaved rounds."""

import argparse
import os
import pathlib
import statistics
import tempfile

from measuring import process
from measuring.report import cpu_environment, megabytes, span, target

from input import photos
from input.contenders import LABELS, OURS, PEERS, WORKERS

ABSENT = "not measured: no --peer-python"
# (ours, theirs, at least): like with like, antialiased or not as the options say.
RATIOS = (
    ("tf", "albumentations", 1.2),
    ("tf-bicubic", "albumentations", 1.2),  # the default kernel of recipes
    ("threads", "albumentations", 1.2),
    ("tf", "opencv", 1.0),
    ("tf-bicubic", "opencv", 1.0),
    ("threads", "opencv", 1.0),
    ("tf-split", "opencv-split", 1.0),
    ("threads-split", "opencv-split", 1.0),
)
# Were the views of every batch kept, 1,800 batches of them would take 44 MB; allocators drift.
GROWTH_MB = 20
EARLY = 200
SMALL = {"size": 32, "examples": 4}


def run(options: argparse.Namespace, *, antialias: bool) -> dict:
    """Every contender in a process of its own, by turns; then a long run of each of ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "photos").mkdir()
        source = photos.make(folder / "photos", options.photos, options.count)
        task = {
            "photos": str(folder / "photos"),
            "policy": policy(options, antialias),
            "size": options.size,
            "examples": options.examples,
        }
        # Where the scan of the photos is kept.
        environment = {**cpu_environment(), "CSSL_JAX_CACHE": str(folder / "cache")}
        rounds: dict[str, list[dict]] = {name: [] for name in options.contenders}
        for _ in range(options.rounds):
            for contender, done in rounds.items():
                if not any("failed" in measured for measured in done):
                    done.append(_pace(contender, task, options, environment))
        grown = {
            contender: process.call(
                "input.contenders.growth",
                contender=contender,
                task={**task, **SMALL},
                early=_early(options),
                late=options.growth_batches,
                environment=environment,
                timeout=options.timeout,
            )
            for contender in options.contenders
            if contender in OURS and options.growth_batches > 1
        }
    rows = [_row(name, done, grown.get(name)) for name, done in rounds.items()]
    return {
        "photos": source,
        "policy": policy(options, antialias),
        "cores": len(os.sched_getaffinity(0)),
        "growth_of_batches": [_early(options), options.growth_batches],
        "rows": rows,
        "targets": _targets({row["contender"]: row for row in rows}),
    }


def policy(options: argparse.Namespace, antialias: bool) -> dict:
    """Fields of the policy that differ from its defaults."""
    return {"interpolation": options.interpolation, "antialias": antialias}


def _early(options: argparse.Namespace) -> int:
    return min(EARLY, options.growth_batches // 2)


def _pace(contender: str, task: dict, options: argparse.Namespace, environment: dict) -> dict:
    peer = {}
    if contender in PEERS:
        if not options.peer_python:
            return {"failed": ABSENT}
        peer = {"python": options.peer_python, "imports": options.peer_imports}
    return process.call(
        "input.contenders.pace",
        contender=contender,
        task=task,
        seconds=options.seconds,
        environment=environment,
        timeout=options.timeout,
        **peer,
    )


def _row(contender: str, rounds: list[dict], grown: dict | None) -> dict:
    row: dict = {"contender": contender}
    failed = [measured["failed"] for measured in rounds if "failed" in measured]
    if failed:
        return {**row, "failed": failed[0]}
    row |= {
        "views_s": statistics.median(measured["views_s"] for measured in rounds),
        "round_views_s": [measured["views_s"] for measured in rounds],
        "memory_bytes": max(measured["memory_bytes"] for measured in rounds),
        "baseline_bytes": statistics.median(measured["baseline_bytes"] for measured in rounds),
        "versions": rounds[0]["versions"],
    }
    if contender in PEERS:
        del row["memory_bytes"]  # its workers hold the memory
        row["workers"] = WORKERS
    else:
        row["cpu_ms"] = statistics.median(measured["cpu_ms"] for measured in rounds)
    if grown:
        row["growth"] = grown
    return row


def _targets(rows: dict[str, dict]) -> list[dict]:
    targets = []
    for name, peer, bound in RATIOS:
        ratio = ratio_of(rows, name, peer)
        words = f"{LABELS[name]} / {LABELS[peer]}"
        targets.append(target(words, [ratio], bound, at_least=True))
    grown = [rows.get(name, {}).get("growth", {}) for name in OURS]
    sizes = [
        (found["late_bytes"] - found["early_bytes"]) / 1e6 if "late_bytes" in found else None
        for found in grown
    ]
    return [*targets, target("growth of any of ours, MB", sizes, GROWTH_MB)]


def ratio_of(rows: dict[str, dict], name: str, peer: str) -> float | None:
    """Median over the rounds of the ratio of two contenders' views/s, which drift together."""
    ours, theirs = (rows.get(key, {}).get("round_views_s") for key in (name, peer))
    if not ours or not theirs:
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def table(section: dict) -> str:
    lightly = {row["contender"]: row for row in section["rows"]}.get("lightly", {}).get("views_s")
    lines = [
        f"{section['photos']}; 2 views of each photo; {section['cores']} cores; "
        + ", ".join(f"{name} {value}" for name, value in section["policy"].items()),
        "",
        f"{'contender':<27}{'views/s':>9} {'(rounds)':<16}{'CPU ms':>7}{'/ lightly':>10}"
        f"{'memory':>10}{'growth':>10}",
    ]
    for row in section["rows"]:
        name = f"{LABELS[row['contender']]:<27}"
        if "failed" in row:
            lines.append(f"{name}  {row['failed']}")
            continue
        ratio = f"{row['views_s'] / lightly:.2f}" if lightly else "-"
        memory = megabytes(row["memory_bytes"]) if "memory_bytes" in row else "-"
        cells = f"{row['views_s']:>9,.0f} {span(row['round_views_s'], ',.0f'):<16}"
        cells += f"{row['cpu_ms']:>7.2f}" if "cpu_ms" in row else f"{'-':>7}"
        lines.append(f"{name}{cells}{ratio:>10}{memory:>10}{_growth(row):>10}")
    early, late = section["growth_of_batches"]
    lines.append(
        "CPU ms: CPU time per view; memory: peak of the process over libraries; growth: of a "
        f"process of its own, from batch {early:,} to batch {late:,}"
    )
    return "\n".join(lines)


def _growth(row: dict) -> str:
    found = row.get("growth")
    if not found:
        return "-"
    if "failed" in found:
        return "failed"
    return megabytes(found["late_bytes"] - found["early_bytes"])
