"""Every protocol on photos and on CIFAR-10, with encoders that a CPU trains in some minutes.

The photos are the recipe ``folder``, CIFAR-10 the recipe ``cifar10_resnet18``, both cut down as in
the README. For ``segment``, scenes with masks are made of them: a picture somewhere on a noisy
ground. Writes ``benchmarks/results/protocols.json``.

Command: python benchmarks/protocols.py --photos FOLDER --cifar FOLDER
(FOLDER/train and FOLDER/val with a folder a class; FOLDER/cifar10_train.npz and cifar10_test*.npz)
"""

import argparse
import datetime
import json
import pathlib

import numpy as np
from measuring.report import machine
from PIL import Image, ImageOps

from cssl_jax import cli, runtime
from cssl_jax.data.loading import load_source

PHOTOS = (
    "folder --data.size 96 --model.encoder resnet10 --model.width 0.25 --train.epochs 25 "
    "--train.batch-size 100 --train.log-every 5 --train.evaluate-every 0 --evaluate.knn-k 20"
)
CIFAR = (
    "cifar10_resnet18 --data.size 24 --model.encoder resnet10 --model.width 0.25 "
    "--model.projector-norm --method.temperature 0.2 --optimizer.name adamw "
    "--optimizer.learning-rate 2e-3 --optimizer.scaling none --optimizer.weight-decay 1e-4 "
    "--train.batch-size 128 --train.epochs 3 --train.log-every 50 --train.evaluate-every 0 "
    "--evaluate.train-limit 10000"
)
# The recipe, the shares of labels, the side of the pictures in scenes.
SETS = {"photos": (PHOTOS, ["0.1", "1"], 64), "cifar": (CIFAR, ["0.01", "0.1"], 32)}
PROTOCOLS = ("knn", "linear", "few-shot", "retrieval")
COLUMNS = ("trained", "untrained", "raw pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--cifar", type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/protocols")
    options = parser.parse_args()
    path = pathlib.Path(__file__).parent / "results" / "protocols.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for name, (recipe, fractions, side) in SETS.items():
        folder = getattr(options, name)
        if folder is None:
            continue
        train, test = _parts(folder, name)
        run = options.workdir / name
        finetuned = {part: options.workdir / f"{name}-{part}" for part in ("probe", "tuned")}
        scenes = write_scenes(train, test, options.workdir / f"{name}-scenes", side)
        segments = options.workdir / f"{name}-segment.json"
        commands = [
            f"pretrain {recipe} --data.source {train} --data.validation-source {test} "
            f"--workdir {run}",
            f"evaluate {run} --protocol {' '.join(PROTOCOLS)}",
            f"evaluate {run} --protocol segment --data.source {scenes['train']} "
            f"--data.validation-source {scenes['test']} --json {segments}",
            f"finetune {run} --workdir {finetuned['probe']} --fractions {fractions[-1]} "
            "--classifier.stages 0",
            f"finetune {run} --workdir {finetuned['tuned']} --fractions {' '.join(fractions)}",
        ]
        for command in commands:
            if cli.main(command.split()):
                raise SystemExit(f"failed: cssl-jax {command}")
        report[name] = {
            "commands": [f"cssl-jax {command}" for command in commands],
            "test": test.name,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": runtime.versions(),
            "results": json.loads((run / "results.json").read_text()),
            "segment": json.loads(segments.read_text()),
            **{
                part: json.loads((place / "finetune.json").read_text())
                for part, place in finetuned.items()
            },
        }
        text = json.dumps(report, indent=1).replace(str(folder), "FOLDER")
        path.write_text(text.replace(str(options.workdir), "RUNS") + "\n")
    for name, figures in report.items():
        print(f"\n{name}\n{table(figures)}")


def _parts(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    if name == "photos":
        return folder / "train", folder / "val"
    (test,) = folder.glob("cifar10_test*.npz")
    return folder / "cifar10_train.npz", test


def write_scenes(
    train: pathlib.Path, test: pathlib.Path, folder: pathlib.Path, side: int
) -> dict[str, pathlib.Path]:
    """.npz files of 2,000 and 500 scenes with masks: 0 is the ground, 1 + class the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, ground, paths = np.random.default_rng(0), side * 3 // 2, {}
    for part, source, count in (("train", train, 2000), ("test", test, 500)):
        data = load_source(str(source))
        images, masks = [], []
        for index in rng.permutation(len(data))[:count]:
            picture = ImageOps.fit(Image.fromarray(data.image(index)), (side, side))
            scene = rng.uniform(0, 255, 3) + rng.normal(0, 40, (ground, ground, 3))
            mask = np.zeros((ground, ground), np.uint8)
            top, left = rng.integers(0, ground - side, 2, endpoint=True)
            place = slice(top, top + side), slice(left, left + side)
            scene[place], mask[place] = picture, 1 + data.labels[index]
            images.append(scene.clip(0, 255).astype(np.uint8))
            masks.append(mask)
        paths[part] = folder / f"{part}.npz"
        np.savez(paths[part], images=np.stack(images), masks=np.stack(masks))
    return paths


def table(figures: dict) -> str:
    """In percent, the last checkpoint beside its floors; +- is a 95 % interval over draws."""
    results, places = figures["results"], (None, "random_init", "pixels")
    columns = [results if place is None else results[place] for place in places]
    rows = {
        "linear probe": [_percent(found["linear"]["top1"]) for found in columns],
        f"kNN, k = {results['knn']['k']}": [_percent(found["knn"]["top1"]) for found in columns],
    }
    for shots in results["few_shot"]["shots"]:
        draws = [found["few_shot"]["shots"][shots] for found in columns]
        rows[f"few-shot, {shots} a class"] = [
            f"{_percent(found['top1'])} +- {_percent(found['ci95'])}" for found in draws
        ]
    for rank in results["retrieval"]["recall"]:
        found = [column["retrieval"]["recall"][rank] for column in columns]
        rows[f"recall@{rank}"] = list(map(_percent, found))
    rows["mean average precision"] = [_percent(found["retrieval"]["map"]) for found in columns]
    dense = [figures["segment"], *(figures["segment"][name] for name in places[1:])]
    rows["segment, mIoU"] = [_percent(found["segment"]["mean_iou"]) for found in dense]
    for name, label in {"probe": "SGD on the frozen encoder", "tuned": "fine-tuned"}.items():
        for share, found in figures[name]["fractions"].items():
            label_of_row = f"{label}, {100 * float(share):g} % ({found['labels']:,})"
            cells = [found[column]["top1"] for column in ("pretrained", "random", "pixels")]
            rows[label_of_row] = list(map(_percent, cells))
    lines = [f"{'':<40}" + "".join(f"{head:>16}" for head in COLUMNS)]
    lines += [f"{row:<40}" + "".join(f"{c:>16}" for c in cells) for row, cells in rows.items()]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
