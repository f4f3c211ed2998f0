"""SimCLR on spoken digits of speakers that were held out, beside log-mel spectrograms.

Free Spoken Digits (FSDD, CC BY-SA 4.0): 3,000 clips of 10 digits by 6 speakers at 8 kHz. The data
is an .npz file with audio (int16), off (start of every clip, and the end), y (digit), speaker
(number) and speakers (names).

For every speaker, recipe speech pretrains on the five others without labels. A linear probe is
fitted on the digits of the five, and evaluated once on the speaker that was held out. Its penalty
is the one with the highest mean accuracy when each of the five is predicted from the other four.
The settings of ``SETTING`` were chosen on the fold of the first speaker. Writes
``benchmarks/results/audio.json`` after every run; runs that it has are not repeated.

Command: python benchmarks/audio.py --data fsdd.npz [--seeds 3] [--folds george jackson]
"""

import argparse
import datetime
import itertools
import json
import pathlib
import statistics
import time
import warnings
from typing import Any

import numpy as np
from measuring.report import machine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data.sources.audio import AudioSource, open_audio, padded
from cssl_jax.evaluate.encoders.features import encoder_variables, make_embed
from cssl_jax.modalities.audio_baselines import BASELINES
from cssl_jax.modalities.audio_files import write_recordings
from cssl_jax.runtime import process

RESULTS = pathlib.Path(__file__).parent / "results" / "audio.json"
RATE = 8000
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # inverse strength C of the probe
SETTING: dict[str, Any] = {
    "data.rate": RATE,
    "data.mels": 40,
    "data.seconds": 0.6,  # the median clip has 0.42 s
    "train.epochs": 12,
}
TARGET = 0.75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe, NAME=JSON")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/audio"))
    options = parser.parse_args()
    words = (word.partition("=") for word in options.set)
    setting = {**SETTING, **{name: json.loads(value) for name, _, value in words}}
    report = json.loads(options.results.read_text()) if options.results.exists() else {}
    if report.get("setting", setting) != setting:
        raise SystemExit(f"{options.results} has another setting; give --results another file")
    source = spoken_digits(options.data)
    speakers = sorted(set(source.groups.tolist()))
    report |= {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": process.versions(),
        "command": "python benchmarks/audio.py --data fsdd.npz",
        "setting": setting,
        "target": TARGET,
        "clips": {name: int((source.groups == name).sum()) for name in speakers},
    }
    rows = report.setdefault("results", {})
    for seed in range(options.seeds):
        for speaker in options.folds or speakers:
            row = rows.setdefault(speaker, {})
            if "log_mel" not in row:
                features = BASELINES["log_mel"].features(source)
                row["log_mel"] = probe(features, source, speaker, speakers)
            if str(seed) not in row.setdefault("trained", {}):
                begun = time.perf_counter()
                folder = options.workdir / f"{speaker} {seed}"
                encoder = pretrained(source, speaker, setting, seed, folder)
                row.setdefault("seconds", {})[str(seed)] = round(time.perf_counter() - begun, 1)
                untrained = untrained_features(encoder, source)
                row.setdefault("untrained", {})[str(seed)] = probe(
                    untrained, source, speaker, speakers
                )
                trained = encoder.embed(source)
                row["trained"][str(seed)] = probe(trained, source, speaker, speakers)
            options.results.write_text(json.dumps(report, indent=1) + "\n")
            print(speaker, seed, row, flush=True)
    print(json.dumps(summary(rows), indent=1))


def spoken_digits(path: pathlib.Path) -> AudioSource:
    """All clips, with the digit as label and the speaker as group."""
    with np.load(path) as data:
        audio, starts = data["audio"], data["off"]
        groups = data["speakers"][data["speaker"]].astype(str)
        labels = data["y"].astype(np.int64)
    clips = [audio[a:b] for a, b in itertools.pairwise(starts)]
    return AudioSource("fsdd", padded(clips), labels, groups=groups, rate=RATE)


def pretrained(
    source: AudioSource, speaker: str, setting: dict[str, Any], seed: int, run: pathlib.Path
) -> Any:
    """The encoder of a run on the other speakers; an unfinished or finished run is continued."""
    others = source.take(np.flatnonzero(source.groups != speaker))
    path = run.parent / f"{speaker} others" / "clips.csv"
    if not path.exists():
        write_recordings(others, path.parent)
    assert open_audio(path, rate=RATE, clip_seconds=10.0).fingerprint() == others.fingerprint()
    config = recipes.load("speech").replace(
        {
            "data.source": str(path),
            # The run measures itself on its own clips: the held-out speaker is not seen.
            "data.validation_source": str(path),
            "data.labels": "none",
            "train.seed": seed,
            "train.evaluate_every": 0,
            "runtime.devices": 1,
            **setting,
        }
    )
    cssl_jax.pretrain(config, run)
    return cssl_jax.load_encoder(run)


def untrained_features(encoder: Any, source: AudioSource) -> np.ndarray:
    """Features of the same encoder before its first step."""
    embed = make_embed(encoder.method.encoder, encoder.mesh, encoder.spec, batch_size=256)
    features: np.ndarray = embed(encoder_variables(encoder.untrained(source)), source)
    return features


def probe(
    features: np.ndarray, source: AudioSource, speaker: str, speakers: list[str]
) -> dict[str, float]:
    """Accuracy on the held-out speaker, and the penalty that the other speakers chose."""
    test = source.groups == speaker
    tried = {
        penalty: statistics.fmean(
            accuracy(
                *(features, source),
                ~test & (source.groups != inner),
                source.groups == inner,
                penalty,
            )
            for inner in speakers
            if inner != speaker
        )
        for penalty in PENALTIES
    }
    best = max(tried, key=lambda penalty: tried[penalty])
    return {"top1": accuracy(features, source, ~test, test, best), "penalty": best}


def accuracy(
    features: np.ndarray, source: AudioSource, train: np.ndarray, test: np.ndarray, penalty: float
) -> float:
    """Accuracy of logistic regression on standardised features."""
    scale = StandardScaler().fit(features[train])
    model = LogisticRegression(C=penalty, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scale.transform(features[train]), source.labels[train])
    return float(model.score(scale.transform(features[test]), source.labels[test]))


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Mean over the speakers, per seed, and the number of speakers above both baselines."""
    seeds = sorted(set.intersection(*(set(row["trained"]) for row in rows.values())))
    means = {
        name: [statistics.fmean(row[name][seed]["top1"] for row in rows.values()) for seed in seeds]
        for name in ("trained", "untrained")
    }
    above = [
        sum(
            row["trained"][seed]["top1"]
            > max(row["untrained"][seed]["top1"], row["log_mel"]["top1"])
            for row in rows.values()
        )
        for seed in seeds
    ]
    log_mel = statistics.fmean(row["log_mel"]["top1"] for row in rows.values())
    return {"log_mel": log_mel, **means, "above_both": above, "speakers": len(rows)}


if __name__ == "__main__":
    main()
