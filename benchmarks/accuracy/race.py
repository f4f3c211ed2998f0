"""Two training runs, each in a process of its own, evaluated by one probe."""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from measuring import process

from cssl_jax.runtime import process as runtime

L2_VALUES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
CONTENDERS = {"ours": "cssl_jax", "torch": "the same recipe in PyTorch"}
TRAINERS = {"ours": "accuracy.race.train", "torch": "accuracy.torch_simclr.train"}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Per contender: epochs, seconds of training until then, and the probe's top-1 in percent."""
    (test,) = options.cifar.glob("cifar10_test*.npz")
    device, rows = None, {}
    for name, trainer in TRAINERS.items():
        peer: dict[str, Any] = {}
        if name == "torch":
            peer = {"python": options.peer_python, "imports": options.peer_imports}
        found = process.call(
            trainer,
            timeout=options.timeout,
            folder=str((options.workdir / name).absolute()),
            train=str((options.cifar / "cifar10_train.npz").absolute()),
            test=str(test.absolute()),
            batch_size=options.batch_size,
            epochs=options.epochs,
            every=options.every,
            images=options.images,
            probe_images=options.probe_images,
            **peer,
        )
        if "failed" not in found:
            for file in found.pop("features", []):
                probed = process.call("accuracy.race.probe", file=file, images=options.probe_images)
                found["top1"].append(probed["top1"])
            pairs = zip(found["seconds"], found["top1"], strict=True)
            reached = [seconds for seconds, top1 in pairs if top1 >= options.target]
            found["seconds_to_target"] = reached[0] if reached else None
            device = device or found["device"]
        rows[name] = found
    return {"device": device, "target": options.target, "test": test.name, "rows": rows}


def table(section: dict[str, Any]) -> str:
    """Text table of the metrics that ``run`` returns."""
    target = f"s to {section['target']:g} %"
    lines = [
        f"linear top-1 on {section['test']}; training alone, compiling included",
        f"{'':<28}{'s an epoch':>12}{'epochs':>8}{'top-1, %':>10}{target:>14}",
    ]
    for name, row in section["rows"].items():
        if "failed" in row:
            lines.append(f"{CONTENDERS[name]:<28}{row['failed']}")
            continue
        reached = row["seconds_to_target"]
        lines.append(
            f"{CONTENDERS[name]:<28}{row['seconds'][-1] / row['epochs'][-1]:>12.2f}"
            f"{row['epochs'][-1]:>8}{row['top1'][-1]:>10.1f}"
            f"{'not reached' if reached is None else format(reached, '.0f'):>14}"
        )
    return "\n".join(lines)


def train(
    folder: str,
    train: str,
    test: str,
    *,
    batch_size: int,
    epochs: int,
    every: int,
    images: int,
    probe_images: int,
) -> dict[str, Any]:
    """Our run: what its journals say."""
    import dataclasses

    import jax

    import cssl_jax
    from cssl_jax.data.sources.arrays import npz

    place, device = pathlib.Path(folder), jax.devices()[0]
    whole = npz(pathlib.Path(train))
    count = images or len(whole.images)
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / "train.npz", images=whole.images[:count], labels=whole.labels[:count])
    config = cssl_jax.load_recipe("cifar10_resnet18")
    fields: dict[str, dict[str, Any]] = {
        "data": {"source": str(place / "train.npz"), "validation_source": test},
        "model": {"dtype": "float32" if device.platform == "cpu" else "bfloat16"},
        "train": {
            "batch_size": batch_size,
            "epochs": epochs,
            "evaluate_every": every,
            "log_every": count // batch_size,  # an epoch: no interval holds an evaluation
            "tensorboard": False,
        },
        "evaluate": {"train_limit": probe_images, "l2_values": L2_VALUES, "probe_seeds": 1}
        | {"online_l2_values": L2_VALUES},
    }
    for name, values in fields.items():
        section = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: section})
    cssl_jax.pretrain(config, place / "run")
    lines = {
        name: [
            json.loads(line) for line in (place / "run" / f"{name}.jsonl").read_text().splitlines()
        ]
        for name in ("timings", "metrics")
    }
    probed = [line for line in lines["metrics"] if "linear.top1" in line]
    return {
        "epochs": [round(line["epoch"]) for line in probed],
        "seconds": [
            sum(timing["seconds"] for timing in lines["timings"] if timing["step"] <= line["step"])
            for line in probed
        ],
        "top1": [100 * line["linear.top1"] for line in probed],
        "device": "" if device.platform == "cpu" else device.device_kind,
        "versions": runtime.versions(),
    }


def probe(file: str, images: int) -> dict[str, float]:
    """Top-1 in percent of the probe that evaluates our run, on features in a file."""
    from cssl_jax.evaluate.protocols.linear import linear_probe

    with np.load(file, allow_pickle=False) as kept:
        of = {name: kept[name] for name in kept.files}
    found = linear_probe(
        of["train"][:images],
        of["train_labels"][:images],
        of["test"],
        of["test_labels"],
        num_classes=10,
        l2_values=L2_VALUES,
        seeds=1,
        seed=0,
    )
    return {"top1": 100 * found["top1"]}
