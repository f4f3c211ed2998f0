"""Every protocol on digits, photos and CIFAR-10, with encoders that a CPU trains in minutes.

The digits are those of ``cssl-jax demo``. The photos are the recipe ``folder`` and CIFAR-10 the
recipe ``cifar10_resnet18``, both reduced as in docs/results.md. For ``segment``, scenes with masks
are composed of their images: one image at a random place on a noisy ground. Writes
``benchmarks/results/protocols.json`` and, for the photos, ``docs/photos_curves.png``;
``benchmarks/document_tables.py`` then writes the tables of README.md and docs/.

Command: python benchmarks/protocols.py --digits --photos FOLDER --cifar FOLDER
(FOLDER/train and FOLDER/val with a folder per class; FOLDER/cifar10_train.npz and
cifar10_test*.npz)
"""

import argparse
import datetime
import json
import pathlib
from typing import Any

import matplotlib
import numpy as np
from measuring.report import machine
from PIL import Image, ImageOps

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cssl_jax.cli import main as cli
from cssl_jax.data.sources.open import load_source
from cssl_jax.runtime import process

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLOURS = {"trained": "#0072b2", "random_init": "#d55e00", "pixels": "#999999"}

PHOTOS = (
    "folder --data.size 96 --model.encoder resnet10 --model.width 0.25 --train.epochs 25 "
    "--train.batch-size 100 --train.log-every 5 --train.evaluate-every 5 --evaluate.knn-k 20"
)
CIFAR = (
    "cifar10_resnet18 --data.size 24 --model.encoder resnet10 --model.width 0.25 "
    "--model.projector-norm --method.temperature 0.2 --optimizer.name adamw "
    "--optimizer.learning-rate 2e-3 --optimizer.scaling none --optimizer.weight-decay 1e-4 "
    "--train.batch-size 128 --train.epochs 3 --train.log-every 50 --train.evaluate-every 0 "
    "--evaluate.train-limit 10000"
)
# The recipe, the fractions of labels, the side in px of the images in scenes (0: no scenes).
SETS = {
    "digits": ("digits", ["0.01", "0.1", "1"], 0),
    "photos": (PHOTOS, ["0.1", "1"], 64),
    "cifar": (CIFAR, ["0.01", "0.1"], 32),
}
PROTOCOLS = ("knn", "linear", "few-shot", "retrieval")
COLUMNS = ("trained", "untrained", "raw pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--cifar", type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/protocols")
    options = parser.parse_args()
    path = pathlib.Path(__file__).parent / "results" / "protocols.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in SETS:
        if not getattr(options, name):
            continue
        folder = getattr(options, name) if name != "digits" else pathlib.Path()
        report[name] = measure(name, folder, options.workdir)
        text = json.dumps(report, indent=1)
        if name != "digits":
            text = text.replace(str(folder), "FOLDER")
        path.write_text(text.replace(str(options.workdir), "RUNS") + "\n")
    for name, found in report.items():
        print(f"\n{name}\n{table(found)}")


def measure(name: str, folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Pretrains on one set and evaluates by every protocol, all by the command line."""
    recipe, fractions, side = SETS[name]
    run, segments = workdir / name, workdir / f"{name}-segment.json"
    data, test = "", "a fifth of the digits, held out"
    if name != "digits":
        train, test_path = _parts(folder, name)
        data, test = f" --data.source {train} --data.validation-source {test_path}", test_path.name
    commands = [
        f"pretrain {recipe}{data} --workdir {run}",
        f"evaluate {run} --protocol {' '.join(PROTOCOLS)}",
    ]
    if side:
        scenes = write_scenes(train, test_path, workdir / f"{name}-scenes", side)
        commands += [
            f"evaluate {run} --protocol segment --data.source {scenes['train']} "
            f"--data.validation-source {scenes['test']} --json {segments}",
            f"finetune {run} --workdir {workdir / f'{name}-probe'} --fractions {fractions[-1]} "
            "--classifier.stages 0",
        ]
    tuned = f"finetune {run} --workdir {workdir / f'{name}-tuned'} --fractions"
    commands.append(f"{tuned} {' '.join(fractions)}")
    for command in commands:
        if cli.main(command.split()):
            raise SystemExit(f"failed: cssl-jax {command}")
    found = {
        "commands": [f"cssl-jax {command}" for command in commands],
        "test": test,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": process.versions(),
        "results": json.loads((run / "results.json").read_text()),
        "tuned": json.loads((workdir / f"{name}-tuned" / "finetune.json").read_text()),
    }
    if side:
        found["segment"] = json.loads(segments.read_text())
        found["probe"] = json.loads((workdir / f"{name}-probe" / "finetune.json").read_text())
    if name == "photos":
        found["curves"] = read_curves(run)
        draw_curves(found["curves"], found["results"], ROOT / "docs" / "photos_curves.png")
    return found


def read_curves(run: pathlib.Path) -> dict[str, Any]:
    """Evaluations and loss during a run: epochs, top-1 in percent, (epoch, loss) pairs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "knn.top1" in line]
    losses = [line for line in lines if "loss" in line]
    return {
        "epochs": [line["epoch"] for line in scores],
        **{name: [100 * line[f"{name}.top1"] for line in scores] for name in ("linear", "knn")},
        "loss": [[line["epoch"], line["loss"]] for line in losses],
        "chance_level": losses[0]["chance_level"],
    }


def draw_curves(curves: dict[str, Any], results: dict[str, Any], path: pathlib.Path) -> None:
    """Probe, kNN and loss over the epochs, beside the baselines after the run."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (name, title) in zip(axes, {"linear": "linear probe", "knn": "kNN"}.items(),
                                   strict=False):  # fmt: skip
        axis.plot(curves["epochs"], curves[name], color=COLOURS["trained"], label="trained encoder")
        for place, label in (("random_init", "untrained encoder"), ("pixels", "raw pixels")):
            value = 100 * results[place][name]["top1"]
            axis.axhline(value, color=COLOURS[place], ls="--", lw=1, label=label)
        axis.set(title=f"{title}, top-1 %", xlabel="epoch", ylim=(0, None), xlim=(0, None))
    axes[0].legend(loc="lower right", fontsize=8)
    axes[2].plot(*zip(*curves["loss"], strict=True), color=COLOURS["trained"], lw=1)
    axes[2].axhline(curves["chance_level"], color=COLOURS["pixels"], ls="--", lw=1)
    axes[2].text(0.98, curves["chance_level"], "chance", ha="right", va="bottom", fontsize=8,
                 transform=axes[2].get_yaxis_transform())  # fmt: skip
    axes[2].set(title="NT-Xent loss", xlabel="epoch", xlim=(0, None))
    figure.savefig(path, dpi=110)


def _parts(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    if name == "photos":
        return folder / "train", folder / "val"
    (test,) = folder.glob("cifar10_test*.npz")
    return folder / "cifar10_train.npz", test


def write_scenes(
    train: pathlib.Path, test: pathlib.Path, folder: pathlib.Path, side: int
) -> dict[str, pathlib.Path]:
    """.npz files of 2,000 and 500 scenes with masks: 0 is the ground, 1 + class the image."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, ground, paths = np.random.default_rng(0), side * 3 // 2, {}
    for part, source, count in (("train", train, 2000), ("test", test, 500)):
        data = load_source(str(source))
        images, masks = [], []
        for index in rng.permutation(len(data))[:count]:
            image = ImageOps.fit(Image.fromarray(data.image(index)), (side, side))
            scene = rng.uniform(0, 255, 3) + rng.normal(0, 40, (ground, ground, 3))
            mask = np.zeros((ground, ground), np.uint8)
            top, left = rng.integers(0, ground - side, 2, endpoint=True)
            place = slice(top, top + side), slice(left, left + side)
            scene[place], mask[place] = image, 1 + data.labels[index]
            images.append(scene.clip(0, 255).astype(np.uint8))
            masks.append(mask)
        paths[part] = folder / f"{part}.npz"
        np.savez(paths[part], images=np.stack(images), masks=np.stack(masks))
    return paths


def rows(report: dict[str, Any]) -> dict[str, list[str]]:
    """Row -> cells of COLUMNS in percent, the last checkpoint beside its baselines.

    +- is a 95 % interval over draws of labels. Runs from before results.json described the
    untrained encoder compared with the state before the first step: "-" in its place.
    """
    results, places = report["results"], (None, "random_init", "pixels")
    columns = [results if place is None else results[place] for place in places]
    found = {
        "linear probe": [_percent(column["linear"]["top1"]) for column in columns],
        f"kNN, k = {results['knn']['k']}": [_percent(c["knn"]["top1"]) for c in columns],
    }
    for shots in results["few_shot"]["shots"]:
        draws = [column["few_shot"]["shots"][shots] for column in columns]
        found[f"{shots} label{'s' * (shots != '1')} per class, 100 draws"] = [
            f"{_percent(draw['top1'])} +- {_percent(draw['ci95'])}" for draw in draws
        ]
    for rank in results["retrieval"]["recall"]:
        recalls = [column["retrieval"]["recall"][rank] for column in columns]
        found[f"recall@{rank}"] = list(map(_percent, recalls))
    found["mean average precision"] = [_percent(c["retrieval"]["map"]) for c in columns]
    if "segment" in report:
        dense = [report["segment"], *(report["segment"][name] for name in places[1:])]
        found["segment, mean IoU"] = [_percent(column["segment"]["mean_iou"]) for column in dense]
    for name, label in {"probe": "linear probe by SGD", "tuned": "fine-tuned"}.items():
        for fraction, tuned in report.get(name, {"fractions": {}})["fractions"].items():
            row = f"{label}, {100 * float(fraction):g} % of the labels ({tuned['labels']:,})"
            cells = [tuned[column]["top1"] for column in ("pretrained", "random", "pixels")]
            found[row] = list(map(_percent, cells))
    if "description" not in results["random_init"]:
        trained = [row for row in found if row.startswith("fine-tuned")]
        for row in found.keys() - set(trained):  # random weights that were trained are no baseline
            found[row][COLUMNS.index("untrained")] = "-"
    return found


def table(report: dict[str, Any]) -> str:
    """``rows`` as plain text."""
    lines = [f"{'':<44}" + "".join(f"{head:>16}" for head in COLUMNS)]
    lines += [
        f"{row:<44}" + "".join(f"{c:>16}" for c in cells) for row, cells in rows(report).items()
    ]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
