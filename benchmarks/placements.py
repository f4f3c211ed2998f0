"""Does it matter where views are made? One recipe by every placement, over seeds, side by side.

Each placement of a seed has the same split, initialisation, order and draws; its views differ from
the others' by rounding to 8 bits and by the sums' order. Prints one table a data set and writes
``benchmarks/results/placements.json``.

Command: python benchmarks/placements.py [--seeds 3] [--cifar FOLDER] [--workdir runs/placements]
FOLDER holds cifar10_train.npz and cifar10_test1000.npz (the first 1,000 test images).
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
from typing import Any

import numpy as np
from measuring.report import spread

import cssl_jax
from cssl_jax import recipes
from cssl_jax.runtime import process

PLACEMENTS: dict[str, dict[str, Any]] = {
    "resident": {"augment_on": "device", "resident": True},
    "split, tf.data": {"augment_on": "split", "engine": "tf"},
    "host, tf.data": {"augment_on": "host", "engine": "tf"},
    "host, threads": {"augment_on": "host", "engine": "threads"},
}
CIFAR_IMAGES = 5_000  # of the training images, the first
RESULTS = pathlib.Path(__file__).parent / "results" / "placements.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar", type=pathlib.Path)
    parser.add_argument("--digits-epochs", type=int, default=5)
    parser.add_argument("--cifar-epochs", type=int, default=2)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/placements"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    sets = {"digits": digits(options.digits_epochs)}
    if options.cifar:
        sets["cifar"] = cifar(options.cifar, options.workdir, options.cifar_epochs)
    report = {
        "command": f"python benchmarks/placements.py --seeds {options.seeds}"
        f" --digits-epochs {options.digits_epochs} --cifar-epochs {options.cifar_epochs}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": process.versions(),
        "sets": {name: measure(name, config, options) for name, config in sets.items()},
    }
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(name, found) for name, found in report["sets"].items()))


def digits(epochs: int) -> cssl_jax.Config:
    """The recipe, cut short."""
    config = recipes.load("digits")
    return replace(config, train={"epochs": epochs, "evaluate_every": 0, "checkpoint_every": 0})


def cifar(folder: pathlib.Path, workdir: pathlib.Path, epochs: int) -> cssl_jax.Config:
    """The recipe ``cifar10_resnet18`` cut down to what a CPU does in a minute or two."""
    workdir.mkdir(parents=True, exist_ok=True)
    subset = workdir / f"cifar10_train{CIFAR_IMAGES}.npz"
    with np.load(folder / "cifar10_train.npz") as arrays:
        np.savez(subset, **{name: arrays[name][:CIFAR_IMAGES] for name in ("images", "labels")})
    test = folder / "cifar10_test1000.npz"
    return replace(
        recipes.load("cifar10_resnet18"),
        data={"source": str(subset), "validation_source": str(test), "size": 24},
        model={"encoder": "resnet10", "width": 0.25, "projector_norm": True},
        method={"temperature": 0.2},
        optimizer={
            "name": "adamw",
            "learning_rate": 2e-3,
            "scaling": "none",
            "warmup_epochs": 0.5,
            "weight_decay": 1e-4,
        },
        train={"batch_size": 128, "epochs": epochs, "evaluate_every": 0, "checkpoint_every": 0},
    )


def replace(config: cssl_jax.Config, **sections: dict[str, Any]) -> cssl_jax.Config:
    """A config with some fields of some sections."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


def measure(name: str, config: cssl_jax.Config, options: argparse.Namespace) -> dict[str, Any]:
    """{placement: linear and kNN top-1, in %, of every seed}."""
    found: dict[str, dict[str, list[float]]] = {}
    for placement, fields in PLACEMENTS.items():
        found[placement] = {"linear": [], "knn": []}
        for seed in range(options.seeds):
            seeded = replace(config, data=fields, train={"seed": seed})
            folder = options.workdir / f"{name}-{placement.replace(', ', '-')}-seed{seed}"
            results = cssl_jax.pretrain(seeded, folder)
            for protocol, values in found[placement].items():
                values.append(100 * results[protocol]["top1"])
    return found


def table(name: str, found: dict[str, dict[str, list[float]]]) -> str:
    lines = [f"\n{name:<18}{'linear probe':>16}{'minus resident':>18}{'kNN':>16}{'seeds':>26}"]
    for placement, values in found.items():
        linear, base = values["linear"], found["resident"]["linear"]
        differences = [ours - theirs for ours, theirs in zip(linear, base, strict=True)]
        each = " ".join(f"{value:.1f}" for value in linear)
        lines.append(
            f"{placement:<18}{spread(linear):>16}{spread(differences):>18}"
            f"{spread(values['knn']):>16}{each:>26}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
