"""Does distillation pay? A small encoder taught by a large one that had few labels, on the digits.

The recipe's encoder is pretrained and fine-tuned with a fraction of the labels: the teacher. An
encoder of half its width learns from the teacher's predictions of all training images, whose
labels are not read. Beside it the small encoder is trained on the teacher's labels, and on all
labels. Each seed has a split, an initialisation and an order of its own. Existing runs are resumed.
Prints one table and writes ``benchmarks/results/distillation.json``.

Command: python benchmarks/distillation.py [--seeds 3] [--fraction 0.05] [--epochs 60]
         [--workdir runs/distillation]
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
from typing import Any

import jax
from measuring.report import spread

import cssl_jax
from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.runtime import process

RESULTS = pathlib.Path(__file__).parent / "results" / "distillation.json"
STEPS = 400  # on few labels
ROWS = {
    "teacher": "teacher: the recipe's encoder, pretrained, a fraction of the labels",
    "distilled": "half the width, distilled, no labels",
    "few": "half the width, from random weights, the teacher's labels",
    "all": "half the width, from random weights, all labels",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fraction", type=float, default=0.05, help="of the labels")
    parser.add_argument("--epochs", type=int, default=60, help="of the small encoder")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/distillation"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    runs = [measure(options, seed) for seed in range(options.seeds)]
    report = {
        "command": f"python benchmarks/distillation.py --recipe {options.recipe} "
        f"--seeds {options.seeds} --fraction {options.fraction:g} --epochs {options.epochs}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": process.versions(),
        "labels": runs[0]["labels"],
        "parameters": runs[0]["parameters"],
        "top1": {row: [run["top1"][row] for run in runs] for row in ROWS},
    }
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(report, indent=2) + "\n")
    for row, values in report["top1"].items():
        print(f"{ROWS[row]:<70}{spread(values):>16}")


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Accuracies in % of one seed, on its validation images, and the sizes of both encoders."""
    folder = options.workdir / f"seed{seed}"
    large = recipes.load(options.recipe).replace({"train.seed": seed})
    cssl_jax.pretrain(large, folder / "large")
    tuned = cssl_jax.finetune(
        folder / "large", folder / "tuned", fractions=[options.fraction]
    ).to_json()
    (scores,) = tuned["fractions"].values()
    teacher = folder / "tuned" / f"{options.fraction:g}-pretrained"
    supervised = small_config(folder / "large", options.epochs)
    classes = len(cssl_jax.load_encoder(teacher).meta["classes"]) or 10
    supervised = supervised.replace({"classifier.num_classes": classes})
    distilled = recipes.with_method(supervised, "distillation").replace(
        {"method.teacher": str(teacher.absolute())}
    )
    few = supervised.replace(
        # The batch is all labelled images, so that an epoch is one step.
        {
            "classifier.label_fraction": options.fraction,
            "train.batch_size": scores["labels"],
            "train.epochs": STEPS,
            "train.evaluate_every": STEPS // 4,
            "train.checkpoint_every": STEPS // 4,
            # As of the larger batch: few labels are not a noisy sample of a step.
            "optimizer.scaling": "none",
            "optimizer.learning_rate": 0.025,
        }
    )
    found = {
        name: cssl_jax.pretrain(config, folder / name)
        for name, config in (("distilled", distilled), ("few", few), ("all", supervised))
    }
    return {
        "labels": scores["labels"],
        "parameters": {
            "teacher": parameters(teacher),
            "distilled": parameters(folder / "distilled"),
        },
        "top1": {
            "teacher": 100 * scores["pretrained"]["top1"],
            **{name: 100 * run["classifier"]["top1"] for name, run in found.items()},
        },
    }


def small_config(run: pathlib.Path, epochs: int) -> Config:
    """A classifier of half the run's width, on its data, with the options of fine-tuning."""
    config = cssl_jax.finetune_config(run)
    return config.replace(
        {"model.width": config.model.width / 2, "train.init": "", "train.epochs": epochs}
    )


def parameters(run: pathlib.Path) -> int:
    """Number of parameters of a run's encoder and classifier."""
    return sum(leaf.size for leaf in jax.tree.leaves(cssl_jax.load_encoder(run).model["params"]))


if __name__ == "__main__":
    main()
