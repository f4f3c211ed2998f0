"""Does pretraining pay on a folder of photos? Probes over the epochs, beside the untrained encoder.

The recipe ``folder`` cut down to what a CPU does in some minutes, by the command line that the
README gives. Writes ``benchmarks/results/folder.json`` and ``docs/folder.png``.

Command: python benchmarks/folder.py TRAIN_FOLDER VALIDATION_FOLDER [--seeds 2]
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cssl_jax import cli, runtime

ROOT = pathlib.Path(__file__).resolve().parent
OPTIONS = (
    "--data.size 96 --model.encoder resnet10 --model.width 0.25 --train.epochs 25 "
    "--train.batch-size 100 --train.evaluate-every 5 --train.log-every 5 --evaluate.knn-k 20"
)
FLOORS = {"untrained encoder": "random_init", "raw pixels": "pixels"}
COLOURS = {"trained encoder": "#0072b2", "untrained encoder": "#d55e00", "raw pixels": "#999999"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/folder-benchmark")
    options = parser.parse_args()
    source = ["--data.source", options.train, "--data.validation-source", options.validation]
    runs = []
    for seed in range(options.seeds):
        run = options.workdir / f"seed{seed}"
        arguments = ["pretrain", "folder", "--workdir", str(run), *source, *OPTIONS.split()]
        if cli.main([*arguments, "--train.seed", str(seed)]):
            raise SystemExit(1)
        runs.append(read(run))
    report = {
        "command": f"cssl-jax pretrain folder --data.source TRAIN --data.validation-source "
        f"VALIDATION {OPTIONS} --train.seed SEED",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": runtime.versions(),
        "runs": runs,
    }
    (ROOT / "results" / "folder.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(runs, ROOT.parent / "docs" / "folder.png")
    print(table(runs))


def read(run: pathlib.Path) -> dict:
    """Curves and floors of a run, in percent."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    scores = [line for line in lines if "knn.top1" in line]
    return {
        "seed": results["seed"],
        "split": results["split"],
        "epochs": [line["epoch"] for line in scores],
        **{
            protocol: {
                "trained encoder": [100 * line[f"{protocol}.top1"] for line in scores],
                **{name: 100 * results[key][protocol]["top1"] for name, key in FLOORS.items()},
            }
            for protocol in ("linear", "knn")
        },
        "loss": [[line["epoch"], line["loss"]] for line in lines if "loss" in line],
        "chance_level": next(line["chance_level"] for line in lines if "loss" in line),
    }


def draw(runs: list[dict], path: pathlib.Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    titles = {"linear": "linear probe", "knn": "kNN"}
    for axis, (protocol, title) in zip(axes, titles.items(), strict=False):
        for number, run in enumerate(runs):
            curve = run[protocol]["trained encoder"]
            label = "trained encoder" if number == 0 else None
            axis.plot(run["epochs"], curve, color=COLOURS["trained encoder"], label=label)
            for name in FLOORS:
                label = name if number == 0 else None
                axis.axhline(run[protocol][name], color=COLOURS[name], ls="--", lw=1, label=label)
        axis.set(title=f"{title}, top-1 %", xlabel="epoch", ylim=(0, None), xlim=(0, None))
    axes[0].legend(loc="lower right", fontsize=8)
    for run in runs:
        axes[2].plot(*zip(*run["loss"], strict=True), color=COLOURS["trained encoder"], lw=1)
    chance = runs[0]["chance_level"]
    axes[2].axhline(chance, color=COLOURS["raw pixels"], ls="--", lw=1)
    axes[2].text(0.98, chance, "chance", ha="right", va="bottom", fontsize=8,
                 transform=axes[2].get_yaxis_transform())  # fmt: skip
    axes[2].set(title="NT-Xent loss", xlabel="epoch", xlim=(0, None))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def table(runs: list[dict]) -> str:
    lines = [f"{'top-1 % by seed':<20}{'linear probe':>20}{'kNN':>20}"]
    for name in COLOURS:
        cells = []
        for protocol in ("linear", "knn"):
            figures = [run[protocol][name] for run in runs]
            last = [figure[-1] if isinstance(figure, list) else figure for figure in figures]
            cells.append(f"{' '.join(f'{x:.1f}' for x in last)} ({statistics.fmean(last):.1f})")
        lines.append(f"{name:<20}{cells[0]:>20}{cells[1]:>20}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
