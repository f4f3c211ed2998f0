"""Domain adaptation of a run: accuracy gain, rejected settings, printed table and resumption."""

import json

import jax
import numpy as np
import pytest

from cssl_jax import adapt, finetune_config, load_encoder, pretrain, recipes
from cssl_jax.cli import main as cli
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import UserError
from cssl_jax.transfer.transfer_results import AdaptationResults, over_seeds
from cssl_jax.transfer.transfer_tables import format_results
from helpers import tiny
from helpers.stops import CrashError, crash_after


def write(path, source, labels):
    labelled = {} if labels is None else {"labels": labels}
    np.savez(path, images=source.images, **labelled)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run on labelled digits, other digits)."""
    folder = tmp_path_factory.mktemp("adapt")
    digits = load_source("digits")
    order = np.random.default_rng(0).permutation(len(digits))
    source, other_digits = digits.take(order[:500]), digits.take(order[500:1000])
    path = write(folder / "source.npz", source, source.labels)
    config = tiny.replace(recipes.load("debug"), "data", source=path)
    config = tiny.replace(config, "model", encoder="tiny", width=0.25)
    config = tiny.replace(config, "train", evaluate_every=0, tensorboard=False)
    # Eight simulated devices on one core take much longer than one device.
    pretrain(tiny.replace(config, "runtime", devices=1), folder / "run")
    return folder / "run", other_digits


@pytest.mark.slow
def test_adaptation_improves_accuracy_on_low_contrast_digits(run, tmp_path):
    folder, other_digits = run
    low_contrast = (0.4 * other_digits.images + 120).round().astype(np.uint8)
    np.savez(tmp_path / "pale.npz", images=low_contrast, labels=other_digits.labels)
    config = finetune_config(folder)
    config = tiny.replace(config, "adapt", target=str(tmp_path / "pale.npz"), coral_weight=10.0)
    config = tiny.replace(config, "adapt", coral_layer="features")
    config = tiny.replace(config, "optimizer", name="adamw", nesterov=False, weight_decay=1e-4)
    config = tiny.replace(config, "optimizer", learning_rate=1e-2, scaling="none")
    config = tiny.replace(config, "train", epochs=15)
    results = adapt(folder, tmp_path / "out", methods=("bn", "coral"), seeds=1, config=config)
    assert json.loads((tmp_path / "out" / "adaptation.json").read_text()) == results.to_json()
    rows = results["rows"]
    assert list(rows) == ["source", "bn", "coral", "target", "random", "pixels"]
    top1 = {name: row["target"]["mean"] for name, row in rows.items()}
    # Measured for seeds 0 to 2: statistics gain 57, 65 and 54 points, CORAL gains 12, 9 and 4.
    assert top1["bn"] > top1["source"] + 0.3, top1
    assert top1["coral"] > top1["source"], top1
    # The saved model is the evaluated one: source weights with statistics of the target images.
    source, bn = (load_encoder(tmp_path / "out" / f"{name}-seed0") for name in ("source", "bn"))
    jax.tree.map(np.testing.assert_array_equal, source.model["params"], bn.model["params"])
    x = (low_contrast / np.float32(255) - bn.spec.mean) / bn.spec.std
    correct = np.argmax(bn.method.logits(bn.model, x), axis=1) == other_digits.labels
    # The tolerance is wide, because most of these images are training images.
    assert np.mean(correct) == pytest.approx(top1["bn"], abs=0.1)
    assert bn.meta["norm_statistics"]["run"] == str(source.run)


@pytest.mark.slow
def test_an_unlabelled_target_is_used_for_adaptation_only(run, tmp_path, capsys):
    folder, other_digits = run
    unlabelled = write(tmp_path / "bare.npz", other_digits.take(np.arange(64)), None)
    arguments = ["adapt", str(folder), "--workdir", str(tmp_path / "out"), "--target", unlabelled]
    arguments += ["--methods", "bn", "coral", "--seeds", "1", "--train.epochs", "1"]
    arguments += ["--evaluate.l2-values", "0.1"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    assert list(results["rows"]) == ["source", "bn", "coral", "random", "pixels"]
    assert all(row.keys() == {"source"} for row in results["rows"].values())
    assert results["images"]["target_labels"] == 0
    table = printed[printed.index("top-1 on held-out") :].splitlines()
    assert table[0].split()[-4:] == ["target", "(13)", "source", "(100)"]
    for line, row in zip(table[1:6], results["rows"].values(), strict=True):
        assert line.split()[-4:] == ["no", "labels", f"{100 * row['source']['mean']:.1f}", "%"]
    assert "target-supervised" not in printed
    assert "No held-out example of the target has a label" in printed
    assert "none of the 13 test images is among the target training images" in printed
    arguments[arguments.index(unlabelled)] = write(
        unlabelled, other_digits.take(np.arange(64, 128)), None
    )
    assert cli.main(arguments) == 2  # the saved statistics are of other images
    assert "but the classifier and images are now" in capsys.readouterr().err


@pytest.mark.slow
def test_labels_of_a_third_of_the_target_are_used_for_training_and_evaluation(
    run, tmp_path, capsys
):
    folder, other_digits = run
    target = other_digits.take(np.arange(64))
    labels = np.where(np.arange(64) % 3, -1, target.labels)
    arguments = ["adapt", str(folder), "--workdir", str(tmp_path / "out")]
    arguments += ["--target", write(tmp_path / "some.npz", target, labels)]
    arguments += ["--methods", "bn", "--seeds", "1", "--train.epochs", "1"]
    arguments += ["--evaluate.l2-values", "0.1"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    assert list(results["rows"]) == ["source", "bn", "target", "random", "pixels"]
    assert all(row.keys() == {"source", "target"} for row in results["rows"].values())
    train, held_out = results["images"]["target_labels"], results["images"]["target_test"]
    assert train + held_out == 22
    assert f"target ({held_out})" in printed
    assert "no labels" not in printed
    assert "Labels of the target are used for training in the target-supervised row only" in printed
    trained = json.loads((tmp_path / "out" / "target-seed0" / "config.json").read_text())
    assert trained["train"]["batch_size"] == train


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    for name, seed in (("source", 0), ("target", 1)):
        generated = tiny.image_source(60, seed=seed)
        np.savez(tmp_path / f"{name}.npz", images=generated.images, labels=generated.labels)
    dann_config = tiny.replace(tiny.config(epochs=3), "data", source=str(tmp_path / "source.npz"))
    dann_config = tiny.replace(dann_config, "model", encoder="linear")  # most time is tracing
    dann_config = recipes.with_method(dann_config, "dann")
    dann_config = tiny.replace(dann_config, "classifier", num_classes=3)
    dann_config = tiny.replace(dann_config, "adapt", target=str(tmp_path / "target.npz"))
    pretrain(dann_config, tmp_path / "whole")
    with pytest.raises(CrashError):
        pretrain(dann_config, tmp_path / "run", hooks=[crash_after(5)])
    pretrain(dann_config, tmp_path / "run")
    uninterrupted, run = tmp_path / "whole", tmp_path / "run"
    assert (run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    models = [jax.device_get(load_encoder(folder).model) for folder in (run, uninterrupted)]
    jax.tree.map(np.testing.assert_array_equal, *models)
    generated = tiny.image_source(60, seed=2)
    np.savez(tmp_path / "target.npz", images=generated.images, labels=generated.labels)
    with pytest.raises(UserError, match="the target images have changed since the run began"):
        pretrain(dann_config, run)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"methods": ("svm",)}, "'svm' is unknown; use bn or coral or dann"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({"target": ""}, {}, r"adapt\.target is empty"),
    ],
)
def test_invalid_arguments_are_rejected_by_name(changes, options, message, tmp_path):
    config = tiny.replace(tiny.config(), "adapt", **{"target": "digits", **changes})
    with pytest.raises(UserError, match=message):
        adapt(tmp_path, tmp_path / "out", config=config, **options)


def test_incompatible_domains_are_rejected_before_training(tmp_path):
    rgb, more, few, fewer = (tmp_path / f"{name}.npz" for name in ("rgb", "more", "few", "fewer"))
    np.savez(rgb, images=tiny.image_source(channels=3).images)
    np.savez(more, images=tiny.image_source(20).images, labels=np.arange(20))
    np.savez(few, images=tiny.image_source(13).images)
    np.savez(fewer, images=tiny.image_source(5).images)
    for target, message in (
        (rgb, r"data\.source: images have 3 channels; this encoder takes 1"),
        (more, "labels up to 19"),
        (few, r"batch size 10, .* over 8 devices; give --train\.batch-size 8"),
        (fewer, r"batch size 4, .* over 8 devices; give --runtime\.devices 4"),
    ):
        config = tiny.replace(tiny.config(), "adapt", target=str(target))
        config = tiny.replace(config, "runtime", devices=8)
        with pytest.raises(UserError, match=message):
            adapt(tmp_path, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_the_table_shows_mean_and_deviation_in_percent():
    content = {
        "images": {"target_test": 200, "source_test": 1000},
        "seeds": 3,
        "rows": {
            "source": {"target": over_seeds([0.5, 0.6, 0.7]), "source": over_seeds([0.9])},
            "bn": {"source": over_seeds([0.25])},
        },
        "leakage": {"source": {"words": "no leakage found"}},
    }
    results = AdaptationResults.from_json(content)
    head, source, bn, *_, last = format_results(results).splitlines()
    assert head.split() == [
        "top-1",
        "on",
        "held-out",
        "examples",
        "target",
        "(200)",
        "source",
        "(1,000)",
    ]
    assert source.split()[-6:] == ["60.0", "+-", "10.0", "%", "90.0", "%"]
    assert bn.split()[-4:] == ["no", "labels", "25.0", "%"]
    assert last == "no leakage found"


def test_the_command_reports_a_missing_argument(capsys, tmp_path):
    assert cli.main(["adapt"]) == 2
    assert "name the run first" in capsys.readouterr().err
    assert cli.main(["adapt", str(tmp_path), "--workdir", str(tmp_path / "x")]) == 2
    assert "is no run folder" in capsys.readouterr().err
