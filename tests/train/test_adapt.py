"""Adaptation of a run: its rows beside each other, what may be seen, and that it helps."""

import json

import jax
import numpy as np
import pytest

import tiny
from cssl_jax import adapt, cli, finetune_config, load_encoder, pretrain, recipes
from cssl_jax.data.loading import load_source
from cssl_jax.errors import UserError
from cssl_jax.train import journal
from cssl_jax.train.adapt import spread, table

ADAPTED = ("bn", "coral", "dann")


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """Files: digits, and other digits that are pale and noisy, with labels and without."""
    folder = tmp_path_factory.mktemp("domains")
    digits = load_source("digits")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    source, target = digits.take(order[:900]), digits.take(order[900:])
    noisy = 0.5 * target.images + 60 + rng.normal(0, 40, target.images.shape)
    noisy = noisy.clip(0, 255).round().astype(np.uint8)
    paths = {name: folder / f"{name}.npz" for name in ("source", "target", "bare")}
    np.savez(paths["source"], images=source.images, labels=source.labels)
    np.savez(paths["target"], images=noisy, labels=target.labels)
    np.savez(paths["bare"], images=noisy)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def run(domains, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt") / "run"
    config = tiny.replace(recipes.load("debug"), "data", source=domains["source"])
    config = tiny.replace(config, "model", encoder="resnet10", width=0.25)
    pretrain(tiny.replace(config, "train", epochs=1), folder)
    return folder


def config(run, target, **train):
    chosen = tiny.replace(finetune_config(run), "adapt", target=target, coral_layer="features")
    chosen = tiny.replace(chosen, "adapt", coral_weight=10.0, dann_weight=0.3)
    chosen = tiny.replace(
        chosen,
        "optimizer",
        name="adamw",
        nesterov=False,
        learning_rate=2e-3,
        scaling="none",
        weight_decay=1e-4,
    )
    chosen = tiny.replace(chosen, "data", size=8)
    return tiny.replace(chosen, "train", **{"epochs": 20, "evaluate_every": 0, **train})


@pytest.mark.slow
def test_adaptation_helps_on_other_digits_that_are_pale_and_noisy(run, domains, tmp_path):
    results = adapt(run, tmp_path, seeds=1, config=config(run, domains["target"], batch_size=64))
    assert json.loads((tmp_path / "adaptation.json").read_text()) == results
    rows = results["rows"]
    assert list(rows) == ["source", *ADAPTED, "target", "random", "pixels"]
    top1 = {name: row["target"]["mean"] for name, row in rows.items()}
    for name in ADAPTED:
        assert top1[name] > top1["source"] + 0.02, (name, top1)
    assert top1["target"] > max(top1[name] for name in ADAPTED)
    assert rows["source"]["source"]["mean"] > 0.85
    assert results["images"]["target"] + results["images"]["target_test"] == 897
    # What is kept is what was judged: features of the re-estimated statistics, the same weights.
    source, bn = (load_encoder(tmp_path / f"{name}-seed1") for name in ("source", "bn"))
    jax.tree.map(np.testing.assert_array_equal, source.model["params"], bn.model["params"])
    part = load_source(domains["target"])
    logits = bn.method.logits(
        bn.model, (part.images / np.float32(255) - bn.spec.mean) / bn.spec.std
    )
    held_out = np.mean(np.argmax(logits, 1) == part.labels)  # most of them were not held out
    assert held_out == pytest.approx(rows["bn"]["target"]["top1"][0], abs=0.1)
    assert bn.meta["norm_statistics"]["run"] == str(source.run)
    again = adapt(run, tmp_path, seeds=1, config=config(run, domains["target"], batch_size=64))
    assert again == results  # nothing is trained twice


@pytest.mark.slow
def test_a_target_without_labels_is_adapted_to_and_not_reported_on(run, domains, tmp_path, capsys):
    words = ["adapt", str(run), "--workdir", str(tmp_path), "--target", domains["bare"]]
    words += ["--methods", "bn", "--seeds", "1", "--train.epochs", "1", "--data.size", "8"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("target's BatchNorm"))
    assert "no labels" in line
    assert "target-supervised  " not in shown
    assert (tmp_path / "bn-seed0" / "checkpoints").is_dir()


@pytest.mark.slow
def test_a_run_that_crashed_ends_with_the_same_bits(tmp_path, monkeypatch):
    for name, seed in (("source", 0), ("target", 1)):
        pictures = tiny.pictures(60, seed=seed)
        np.savez(tmp_path / f"{name}.npz", images=pictures.images, labels=pictures.labels)
    chosen = tiny.replace(tiny.config(epochs=3), "data", source=str(tmp_path / "source.npz"))
    chosen = tiny.replace(chosen, "method", name="dann")
    chosen = tiny.replace(chosen, "classifier", num_classes=3)
    chosen = tiny.replace(chosen, "adapt", target=str(tmp_path / "target.npz"))
    pretrain(chosen, tmp_path / "whole")
    add = journal.Journal.add

    def crash(self, done, metrics, wait):
        add(self, done, metrics, wait)
        if done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", crash)
        with pytest.raises(KeyboardInterrupt):
            pretrain(chosen, tmp_path / "run")
    pretrain(chosen, tmp_path / "run")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    models = [jax.device_get(load_encoder(folder).model) for folder in (run, whole)]
    jax.tree.map(np.testing.assert_array_equal, *models)
    pictures = tiny.pictures(60, seed=2)
    np.savez(tmp_path / "target.npz", images=pictures.images, labels=pictures.labels)
    with pytest.raises(UserError, match="the target images have changed since the run began"):
        pretrain(chosen, run)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"methods": ("svm",)}, "'svm' is unknown; use bn or coral or dann"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({"target": ""}, {}, r"adapt\.target is empty"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, options, words, tmp_path):
    chosen = tiny.replace(tiny.config(), "adapt", **{"target": "digits", **changes})
    with pytest.raises(UserError, match=words):
        adapt(tmp_path, tmp_path / "out", config=chosen, **options)


def test_domains_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path):
    rgb, more = tmp_path / "rgb.npz", tmp_path / "more.npz"
    np.savez(rgb, images=tiny.pictures(channels=3).images)
    np.savez(more, images=tiny.pictures(20).images, labels=np.arange(20))
    for target, words in (
        (rgb, r"3 channel\(s\) and data\.source of 1"),
        (more, "labels up to 19"),
    ):
        chosen = tiny.replace(tiny.config(), "adapt", target=str(target))
        with pytest.raises(UserError, match=words):
            adapt(tmp_path, tmp_path / "out", config=chosen)
    assert not (tmp_path / "out").exists()


def test_the_table_gives_mean_and_deviation_in_percent():
    results = {
        "images": {"target_test": 200, "source_test": 1000},
        "seeds": 3,
        "rows": {
            "source": {"target": spread([0.5, 0.6, 0.7]), "source": spread([0.9])},
            "bn": {"source": spread([0.25])},
        },
        "leakage": {"source": {"words": "no leakage found"}},
    }
    head, source, bn, *_, last = table(results).splitlines()
    assert head.split() == [
        "top-1",
        "on",
        "held-out",
        "images",
        "target",
        "(200)",
        "source",
        "(1,000)",
    ]
    assert source.split()[-6:] == ["60.0", "+-", "10.0", "%", "90.0", "%"]
    assert bn.split()[-4:] == ["no", "labels", "25.0", "%"]
    assert last == "no leakage found"


def test_the_command_tells_what_is_missing(capsys, tmp_path):
    assert cli.main(["adapt"]) == 2
    assert "name the run first" in capsys.readouterr().err
    assert cli.main(["adapt", str(tmp_path), "--workdir", str(tmp_path / "x")]) == 2
    assert "is no run folder" in capsys.readouterr().err
