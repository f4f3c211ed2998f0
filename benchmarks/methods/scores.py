"""Section ``scores``: linear probe and kNN of the last epoch, beside the baselines."""

import json
import statistics
import time

import cssl_jax
from cssl_jax import recipes
from methods import settings

PROTOCOLS = ("linear", "knn")
BASELINES = {"raw pixels": "pixels", "untrained encoder": "random_init"}


def run(options) -> dict:
    """One row per method and seed; each is written as it ends."""
    options.workdir.mkdir(parents=True, exist_ok=True)
    path = options.workdir / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(options.seeds):  # all methods once, before any of them again
        for name in options.methods:
            config = settings.config_of(name, vars(options), seed)
            digest = recipes.config_hash(config)
            if digest in {row["config_hash"] for row in rows}:
                continue
            rows.append(_row(config, options.workdir / f"{name}_{seed}_{digest}", digest))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(_line(rows[-1]), flush=True)
    wanted = {
        recipes.config_hash(settings.config_of(name, vars(options), seed))
        for seed in range(options.seeds)
        for name in options.methods
    }
    return {"rows": [row for row in rows if row["config_hash"] in wanted]}


def _row(config, folder, digest: str) -> dict:
    start = time.perf_counter()
    results = cssl_jax.pretrain(config, folder)
    sources = {"trained": results, **{key: results[key] for key in BASELINES.values()}}
    return {
        "method": config.method.name,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "config_hash": digest,
        "seconds": round(time.perf_counter() - start, 1),
        "top1": {
            name: {protocol: 100 * source[protocol]["top1"] for protocol in PROTOCOLS}
            for name, source in sources.items()
        },
    }


def _line(row: dict) -> str:
    found = row["top1"]["trained"]
    return (
        f"{row['method']:<14} seed {row['seed']}  linear {found['linear']:.2f}  "
        f"kNN {found['knn']:.2f}  {row['seconds']:.0f} s"
    )


def table(section: dict) -> str:
    """Mean and standard error over the seeds per method, and of the baselines over all runs."""
    rows = section["rows"]
    lines = [f"{'top-1, %':<20}{'epochs':>7}{'linear probe':>18}{'kNN':>18}  above both baselines"]
    for label, key in BASELINES.items():
        lines.append(f"{label:<27}" + _cells([row["top1"][key] for row in rows]))
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cells = _cells([row["top1"]["trained"] for row in own])
        lines.append(f"{name:<20}{own[0]['epochs']:>7}{cells}  {', '.join(_above(own)) or 'none'}")
    return "\n".join(lines)


def _cells(scores: list[dict]) -> str:
    return "".join(f"{_spread([score[p] for score in scores]):>18}" for p in PROTOCOLS)


def _above(rows: list[dict]) -> list[str]:
    """Protocols in which a method beats each baseline by more than the standard error."""

    def beats(protocol: str, baseline: str) -> bool:
        gains = [row["top1"]["trained"][protocol] - row["top1"][baseline][protocol] for row in rows]
        return statistics.fmean(gains) > _error(gains)

    return [p for p in PROTOCOLS if all(beats(p, key) for key in BASELINES.values())]


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} +- {_error(values):.2f}"


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
