"""TS2Vec on two public sets of series, beside the untrained encoder and the raw values.

OSULeaf (outlines of leaves; 200 training and 242 test series of 427 steps, 6 classes) and
JapaneseVowels (12 LPC coefficients of 9 speakers; 270 and 370 series of 7 to 29 steps). Both lie in
the wheel of aeon: ``pip download --no-deps aeon==1.6.0`` and unzip it; the folder is
``aeon/datasets/data``.

Every setting is pretrained on the training series without their labels. Settings are compared by
cross-validation of the SVM on the training series, for every seed. The setting with the highest
mean is then evaluated on the test series, once. Writes ``benchmarks/results/series.json``.

Command: python benchmarks/series.py --data FOLDER [--sets OSULeaf JapaneseVowels] [--seeds 3]
"""

import argparse
import datetime
import json
import pathlib
import statistics
from typing import Any

import numpy as np
from measuring.report import machine
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.series import open_series
from cssl_jax.evaluate.encoders.features import encoder_variables, make_embed
from cssl_jax.evaluate.protocols.linear import linear_probe
from cssl_jax.runtime import process

RESULTS = pathlib.Path(__file__).parent / "results" / "series.json"
PENALTIES = [*(10.0**e for e in range(-4, 5)), 1e9]  # the grid of TS2Vec's code, 1e9 for infinity
# Settings by set: changes of recipe ts2vec.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "OSULeaf": {
        "200 steps": {"train.epochs": 8},
    },
    "JapaneseVowels": {
        "198 steps": {"train.epochs": 6},
        "594 steps": {"train.epochs": 18},
    },
}
TARGETS = {"OSULeaf": 0.836, "JapaneseVowels": 0.976}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/series")
    options = parser.parse_args()
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.sets:
        report[name] = measure(name, options.data, options.workdir, range(options.seeds))
        report[name]["command"] = (
            f"python benchmarks/series.py --data FOLDER --sets {name} --seeds {options.seeds}"
        )
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report[name]["results"], indent=1))


def measure(name: str, data: pathlib.Path, workdir: pathlib.Path, seeds: range) -> dict[str, Any]:
    """All rows of one set."""
    paths = {part: data / name / f"{name}_{part.upper()}.ts" for part in ("train", "test")}
    train, test = (open_series(paths[part]) for part in ("train", "test"))
    choices: dict[str, list[float]] = {}
    encoders: dict[tuple[str, int], Any] = {}
    for setting, changes in SETTINGS[name].items():
        scores = []
        for seed in seeds:
            encoder = pretrained(
                paths["train"], changes, seed, workdir / name / f"{setting} {seed}"
            )
            encoders[setting, seed] = encoder
            scores.append(cross_validation(encoder.embed(train), train.labels))
        choices[setting] = scores
        print(name, setting, scores, flush=True)
    chosen = max(choices, key=lambda setting: statistics.fmean(choices[setting]))
    rows: dict[str, list[dict[str, float]]] = {"trained": [], "untrained": []}
    for seed in seeds:
        encoder = encoders[chosen, seed]
        rows["trained"].append(probes(encoder.embed(train), train, encoder.embed(test), test))
        untrained = untrained_features(encoder, train)
        rows["untrained"].append(probes(untrained(train), train, untrained(test), test))
    values = [padded_values(source, train) for source in (train, test)]
    rows["raw"] = [probes(values[0], train, values[1], test)]
    neighbours = KNeighborsClassifier(1).fit(values[0], train.labels)
    rows["raw"][0]["1-NN"] = float(neighbours.score(values[1], test.labels))
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": process.versions(),
        "train": len(train),
        "test": len(test),
        "target": TARGETS[name],
        "seeds": list(seeds),
        "cross_validation": choices,
        "chosen": chosen,
        "settings": SETTINGS[name],
        "results": rows,
    }


def pretrained(path: pathlib.Path, changes: dict[str, Any], seed: int, run: pathlib.Path) -> Any:
    """The encoder of a run on all training series; an unfinished or finished run is continued."""
    config = recipes.load("ts2vec").replace(
        {
            "data.source": str(path),
            # The run measures itself on its own training series: the test series are not seen.
            "data.validation_source": str(path),
            "data.labels": "none",
            "train.seed": seed,
            "train.evaluate_every": 0,
            "train.checkpoint_every": 2,
            "runtime.devices": 1,
            **changes,
        }
    )
    cssl_jax.pretrain(config, run)
    return cssl_jax.load_encoder(run)


def untrained_features(encoder: Any, train: ArraySource) -> Any:
    """Features of the same encoder before its first step, as a function of a source."""
    embed = make_embed(encoder.method.encoder, encoder.mesh, encoder.spec, batch_size=64)
    variables = encoder_variables(encoder.untrained(train))
    return lambda source: embed(variables, source)


def padded_values(source: ArraySource, train: ArraySource) -> np.ndarray:
    """Values [N, T C], standardised per channel by the training series, 0 from the length on."""
    valid = np.arange(train.examples["values"].shape[1]) < train.examples["length"][:, None]
    known = train.examples["values"][valid]
    steps = max(train.examples["values"].shape[1], 29)
    values = (source.examples["values"] - known.mean(axis=0)) / known.std(axis=0)
    inside = np.arange(values.shape[1]) < source.examples["length"][:, None]
    values = np.where(inside[..., None], values, 0)[:, :steps]
    values = np.pad(values, ((0, 0), (0, steps - values.shape[1]), (0, 0)))
    return values.reshape(len(values), -1)


def svm(labels: np.ndarray) -> GridSearchCV:
    """RBF-SVM whose penalty is chosen by 5-fold cross-validation, as in TS2Vec's code."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return GridSearchCV(SVC(gamma="scale"), {"C": PENALTIES}, cv=folds, n_jobs=1)


def cross_validation(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the SVM in 5-fold cross-validation on the training series."""
    return float(svm(labels).fit(features, labels).best_score_)


def probes(
    x: np.ndarray, train: ArraySource, x_test: np.ndarray, test: ArraySource
) -> dict[str, float]:
    """Accuracy on the test series of the product's linear probe and of the SVM."""
    linear = linear_probe(
        x, train.labels, x_test, test.labels, num_classes=len(train.classes), seeds=3
    )
    return {
        "linear": linear["top1"],
        "svm": float(svm(train.labels).fit(x, train.labels).score(x_test, test.labels)),
    }


if __name__ == "__main__":
    main()
