"""Does adaptation pay? Images to other images that are shifted, beside bounds and baselines.

Half of the embedded digits, or of photos, as they are, have labels: the source. The other half,
shifted on the spot, have none: the target; a fifth of either is held out to report on. Each seed
has its own halves, noise, initialisation and order. An encoder is pretrained on the source, and
from there on the target (train.init); ``adapt`` starts from the one and from the other. Prints one
table a shift and writes ``benchmarks/results/adaptation.json``.

CORAL's layer and weight, the epochs and the learning rate were chosen on the digits and seed 0,
which is therefore none of the seeds reported; DANN's weight is the paper's.

Command: python benchmarks/adaptation.py [--shifts pale inverted] [--seeds 1 2 3]
         [--photos FOLDER] [--workdir runs/adaptation]; existing runs are resumed.
(FOLDER has a folder a class, or several such folders; it is needed for the shift ``photos``.)
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring.report import spread
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data.sources.arrays import digits
from cssl_jax.runtime import process
from cssl_jax.transfer.transfer_results import SETTINGS

RESULTS = pathlib.Path(__file__).parent / "results" / "adaptation.json"
STARTS = {"source": "from the source run", "continued": "continued on the target"}
SUFFIXES = {".jpg", ".jpeg", ".png"}
Shift = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def pale(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the contrast, 60 grey levels brighter, noise of 40."""
    return 0.5 * x + 60 + rng.normal(0, 40, x.shape)


def inverted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The distance from a background of any grey, which inverts where that is light; noise of 20.

    As MNIST-M is made (Ganin et al. 2016, sec. 5.2.4), of plain backgrounds.
    """
    background = rng.uniform(0, 255, (len(x), 1, 1, 1))
    return np.abs(background - x) + rng.normal(0, 20, x.shape)


def grey_blurred(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The luma of ITU-R BT.601 in every channel, behind a Gaussian blur of 0.8 to 1.6 px."""
    luma = x @ np.array([0.299, 0.587, 0.114])
    sigmas = rng.uniform(0.8, 1.6, len(x))
    blurred = [gaussian_filter(image, sigma) for image, sigma in zip(luma, sigmas, strict=True)]
    return np.repeat(np.stack(blurred)[..., None], 3, axis=-1)


SHIFTS: dict[str, Shift] = {"pale": pale, "inverted": inverted, "photos": grey_blurred}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shifts", nargs="+", choices=SHIFTS, default=["pale", "inverted"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--photos", type=pathlib.Path, help="folder of the shift photos")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/adaptation"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    if "photos" in options.shifts and options.photos is None:
        parser.error("the shift photos needs --photos FOLDER")
    seeds = " ".join(map(str, options.seeds))
    known = json.loads(options.results.read_text())["shifts"] if options.results.is_file() else {}
    for name in options.shifts:
        known[name] = {
            "command": f"python benchmarks/adaptation.py --shifts {name} --seeds {seeds}",
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": process.versions(),
            "seeds": options.seeds,
            **measure(name, options),
        }
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(json.dumps({"shifts": known}, indent=2) + "\n")
        print(table(name, known[name]), flush=True)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """{"images", "starts": {start: {row: {domain: top-1 in %, of every seed}}}}."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {start: {} for start in STARTS}
    images, labels = photos(options.photos) if name == "photos" else scans()
    for seed in options.seeds:
        folder = options.workdir / f"{name}-seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        source, target = write_domains(folder, images, labels, SHIFTS[name], seed)
        config = on_photos() if name == "photos" else on_digits()
        config = replace(config, train={"seed": seed}, data={"source": str(source)})
        cssl_jax.pretrain(config, folder / "source")
        on = {"init": str((folder / "source").absolute())}
        config = replace(config, train=on, data={"source": str(target)})
        cssl_jax.pretrain(config, folder / "continued")
        for start in STARTS:
            results = adapted(folder, start, source, target)
            for row, domains in results["rows"].items():
                tops = found[start].setdefault(row, {})
                for domain, metrics in domains.items():
                    tops.setdefault(domain, []).append(100 * metrics["mean"])
    return {"images": results["images"], "starts": found}


def scans() -> tuple[np.ndarray, np.ndarray]:
    """The embedded digits: uint8 [1797, 8, 8, 1], int [1797]."""
    data = digits()
    return data.images, data.labels


def photos(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The centre squares of a folder's photos: uint8 [N, 32, 32, 3], int [N]."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent.name for path in paths})
    squares = [ImageOps.fit(Image.open(path).convert("RGB"), (32, 32)) for path in paths]
    return np.stack(squares), np.array([classes.index(path.parent.name) for path in paths])


def write_domains(
    folder: pathlib.Path, images: np.ndarray, labels: np.ndarray, shift: Shift, seed: int
) -> tuple[pathlib.Path, ...]:
    """The .npz files of both domains, which share no image."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    half = len(images) // 2
    paths = folder / "source.npz", folder / "target.npz"
    for path, rows in zip(paths, (order[:half], order[half:]), strict=True):
        part = images[rows]
        if path is paths[1]:
            part = shift(part.astype(float), rng).clip(0, 255).round().astype(np.uint8)
        np.savez(path, images=part, labels=labels[rows])
    return paths


def on_digits() -> cssl_jax.Config:
    """The recipe ``digits`` with a narrow ResNet-10, at the scans' own size."""
    return replace(
        recipes.load("digits"),
        data={"size": 8},
        model={"encoder": "resnet10"},
        train={"epochs": 60, "evaluate_every": 0, "checkpoint_every": 0, "tensorboard": False},
    )


def on_photos() -> cssl_jax.Config:
    """The recipe ``folder`` with a narrow ResNet-10 at 24 px and the digits' optimizer."""
    return replace(
        recipes.load("folder"),
        data={"size": 24, "validation_fraction": 0.2},
        model={"encoder": "resnet10", "width": 0.25, "stem": "cifar"},
        optimizer=dataclasses.asdict(on_digits().optimizer),
        train={**dataclasses.asdict(on_digits().train), "batch_size": 100, "epochs": 40},
    )


def adapted(
    folder: pathlib.Path, start: str, source: pathlib.Path, target: pathlib.Path
) -> dict[str, Any]:
    """What `adapt` gives from one of the two encoders, each seed's labels and images the same."""
    config = replace(
        cssl_jax.finetune_config(folder / start),
        data={"source": str(source)},
        adapt={"target": str(target), "coral_weight": 10.0, "coral_layer": "features"},
        optimizer={
            "name": "adamw",
            "nesterov": False,
            "learning_rate": 2e-3,
            "scaling": "none",
            "warmup_epochs": 1.0,
            "weight_decay": 1e-4,
        },
        train={"epochs": 20, "batch_size": 64},
    )
    place = folder / f"adapted-{start}"
    return cssl_jax.adapt(folder / start, place, seeds=1, config=config)


def replace(config: cssl_jax.Config, **sections: Any) -> cssl_jax.Config:
    """A config with some fields of some sections."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


def table(name: str, found: dict[str, Any]) -> str:
    """Top-1 on the target's held-out images from both starts, and what each row adds."""
    heads = [head for label in STARTS.values() for head in (label, "minus source only")]
    lines = [f"\n{name:<36}" + "".join(f"{head:>25}" for head in heads)]
    for row, label in SETTINGS.items():
        cells = []
        for start in STARTS:
            values, base = (found["starts"][start][r]["target"] for r in (row, "source"))
            differences = [ours - theirs for ours, theirs in zip(values, base, strict=True)]
            cells += [spread(values), "" if row == "source" else spread(differences)]
        lines.append(f"{label:<36}" + "".join(f"{cell:>25}" for cell in cells))
    images = found["images"]
    lines.append(
        f"top-1 in %, mean +- standard deviation over {len(found['seeds'])} seeds, "
        f"{images['target_test']} target images each; fitted on {images['source']} source labels"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
