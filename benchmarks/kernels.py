"""Which kernel should resize crops? One recipe on photos by every kernel, over seeds.

Each kernel of a seed has the same initialisation, order and crops. The validation photos choose;
nothing is reported on them elsewhere. Prints a table; writes ``benchmarks/results/kernels.json``.

Command: python benchmarks/kernels.py --photos FOLDER [--seeds 3] [--workdir runs/kernels]
FOLDER holds train/ and val/ with a folder per class.
"""

import argparse
import datetime
import json
import pathlib
from typing import Any

import placements
from measuring.report import machine, spread, versions

import cssl_jax
from cssl_jax import recipes

KERNELS: dict[str, dict[str, Any]] = {
    "bicubic, antialiased": {"interpolation": "bicubic", "antialias": True},
    "bilinear, antialiased": {"interpolation": "bilinear", "antialias": True},
    "bilinear, plain": {"interpolation": "bilinear", "antialias": False},
}
BASE = "bicubic, antialiased"  # the default
RESULTS = pathlib.Path(__file__).parent / "results" / "kernels.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/kernels"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": f"python benchmarks/kernels.py --photos FOLDER --seeds {options.seeds}"
        f" --epochs {options.epochs}",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "seeds": options.seeds,
        "kernels": {name: {"linear": [], "knn": []} for name in KERNELS},
    }
    for seed in range(options.seeds):
        for name, fields in KERNELS.items():
            slug = name.replace(", ", "-")
            results = cssl_jax.pretrain(
                config(options, fields, seed), options.workdir / f"{slug}-seed{seed}"
            )
            for protocol, values in report["kernels"][name].items():
                values.append(100 * results[protocol]["top1"])
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report["kernels"]))


def config(options: argparse.Namespace, kernel: dict[str, Any], seed: int) -> cssl_jax.Config:
    """Recipe ``folder`` cut down to what a CPU does in a few minutes."""
    return placements.replace(
        recipes.load("folder"),
        data={
            "source": str(options.photos / "train"),
            "validation_source": str(options.photos / "val"),
            "size": 48,
        },
        augment=kernel,
        model={"encoder": "resnet10", "width": 0.25, "stem": "cifar"},
        optimizer={
            "name": "adamw",
            "learning_rate": 2e-3,
            "scaling": "none",
            "warmup_epochs": 1.0,
            "weight_decay": 1e-4,
        },
        train={
            "batch_size": 128,
            "epochs": options.epochs,
            "seed": seed,
            "evaluate_every": 0,
            "checkpoint_every": 0,
        },
    )


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Top-1 of both probes over the seeds, and differences from the default kernel."""
    lines = [f"{'kernel':<24}{'linear probe':>16}{'minus default':>16}{'kNN':>16}"]
    for name, values in found.items():
        pairs = zip(values["linear"], found[BASE]["linear"], strict=True)
        differences = spread([ours - theirs for ours, theirs in pairs])
        cells = f"{spread(values['linear']):>16}{differences:>16}{spread(values['knn']):>16}"
        lines.append(f"{name:<24}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
