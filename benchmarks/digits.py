"""Does pretraining pay on the digits? Probe accuracy over seeds, beside its baselines.

Each seed is a split, an initialisation and an order of its own. Prints one table and writes
``benchmarks/results/digits.json``.

Command: python benchmarks/digits.py [--seeds 5] [--recipe digits] [--workdir runs/digits-benchmark]
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import statistics
import time

import cssl_jax
from cssl_jax import recipes
from cssl_jax.runtime import process

ROWS = {"trained encoder": None, "untrained encoder": "random_init", "raw pixels": "pixels"}
RESULTS = pathlib.Path(__file__).parent / "results" / "digits.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/digits-benchmark")
    options = parser.parse_args()
    config = recipes.load(options.recipe)
    runs, seconds = [], []
    for seed in range(options.seeds):
        seeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        start = time.perf_counter()
        runs.append(cssl_jax.pretrain(seeded, options.workdir / f"seed{seed}"))
        seconds.append(round(time.perf_counter() - start, 1))
    report = {
        "command": f"python benchmarks/digits.py --seeds {options.seeds} --recipe {options.recipe}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": process.versions(),
        "config_hashes": [run["config_hash"] for run in runs],
        "seconds": seconds,
        "probes": {name: summary(runs, key) for name, key in ROWS.items()},
        "differences": {name: paired(runs, key) for name, key in ROWS.items() if key is not None},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def values(runs: list[dict], key: str | None, protocol: str) -> list[float]:
    return [100 * (run if key is None else run[key])[protocol]["top1"] for run in runs]


def summary(runs: list[dict], key: str | None) -> dict:
    return {
        protocol: {"top1": values(runs, key, protocol), **spread(values(runs, key, protocol))}
        for protocol in ("linear", "knn")
    }


def paired(runs: list[dict], key: str) -> dict:
    """Trained minus baseline on the same split, so that hard and easy splits cancel."""
    return {
        protocol: spread(
            [
                ours - baseline
                for ours, baseline in zip(
                    values(runs, None, protocol), values(runs, key, protocol), strict=True
                )
            ]
        )
        for protocol in ("linear", "knn")
    }


def spread(numbers: list[float]) -> dict:
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return {
        "mean": statistics.fmean(numbers),
        "standard_error": deviation / math.sqrt(len(numbers)),
    }


def table(report: dict) -> str:
    lines = [f"{'top-1, %':<32}{'linear probe':>18}{'kNN':>18}"]
    rows = {**report["probes"]}
    rows |= {f"trained minus {name}": row for name, row in report["differences"].items()}
    for name, row in rows.items():
        cells = [
            f"{row[p]['mean']:.2f} +- {row[p]['standard_error']:.2f}" for p in ("linear", "knn")
        ]
        lines.append(f"{name:<32}{cells[0]:>18}{cells[1]:>18}")
    count = len(report["seconds"])
    lines.append(f"mean +- standard error over {count} seeds; seconds a run: {report['seconds']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
