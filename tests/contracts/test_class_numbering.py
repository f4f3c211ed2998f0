"""Every command gives a class one number: solid colours are distinguished wherever they lie."""

import json

import numpy as np
import pytest

from cssl_jax import adapt, finetune, finetune_config, load_encoder, pretrain
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.experiment import data_splits
from cssl_jax.report.figures.gallery import class_names
from cssl_jax.sweeps import objective
from helpers import solid_images, tiny

TRAIN, HELD = ("ant", "bee", "cat"), ("ant", "cat")
FEW = {"knn_k": 3, "knn_ks": (1, 3), "probe_seeds": 1, "batch_size": 16}
FEW |= {"l2_values": (1e-4, 1e-2), "online_l2_values": (1e-2,)}


def config(train, validation):
    chosen = tiny.config(epochs=2, evaluate_every=1, tensorboard=False)
    chosen = tiny.replace(chosen, "evaluate", **FEW)
    chosen = tiny.replace(chosen, "runtime", devices=1)
    chosen = tiny.replace(chosen, "augment", jitter=(0.0,), grayscale=(0.0,), solarize=(0.0,))
    data = {"source": train, "validation_source": validation, "size": 8, "normalize": "unit"}
    return tiny.replace(chosen, "data", **data)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Source by name; the validation set lacks the class in the middle."""
    root = tmp_path_factory.mktemp("colours")
    return {
        "train": solid_images.write("folder", root / "train", TRAIN, count=12),
        "held": solid_images.write("folder", root / "held", HELD, count=8, seed=1),
        "mixed": solid_images.write("mixed sizes", root / "mixed", TRAIN, count=12),
        "mixed held": solid_images.write("mixed sizes", root / "mixed_held", HELD, count=8, seed=1),
        "more": solid_images.write("folder", root / "more", ("aphid", *HELD), count=8, seed=1),
    }


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, pretrain(config(sources["train"], sources["held"]), folder)


def nearest_colour(encoder):
    """Fraction of validation images whose nearest training image lies in a folder of their name."""
    train, held = data_splits.load_data(encoder.config)
    names = np.array([name.partition("/")[0] for name in train.names])
    bank, queries = (encoder.embed(part) for part in (train, held))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    found = names[np.argmax(unit[1] @ unit[0].T, axis=1)]
    return np.mean([name.startswith(f"{f}/") for f, name in zip(found, held.names, strict=True)])


@pytest.mark.slow
def test_pretraining_reports_and_chooses_by_the_right_classes(run):
    folder, results = run
    assert results["pixels"]["knn"]["top1"] == 1.0
    assert results["pixels"]["linear"]["top1"] == 1.0
    assert results["num_classes"] == 3
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    online = {line["step"]: line["knn.selection_top1"] for line in lines if "knn.top1" in line}
    assert online[results["best"]["step"]] == max(online.values())
    found = load_encoder(folder)
    assert results["knn"]["by_k"]["1"]["top1"] == nearest_colour(found)
    assert found.meta["classes"] == list(TRAIN)
    assert class_names(data_splits.load_data(found.config)[1]) == list(TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "mixed "])
def test_evaluating_on_other_images_matches_their_classes(run, sources, kind, capsys, tmp_path):
    output = tmp_path / "figures.json"
    train = sources[kind.strip() or "train"]
    words = ["evaluate", str(run[0]), "--protocol", "knn", "--json", str(output)]
    words += ["--data.source", train, "--data.validation-source", sources[f"{kind}held"]]
    assert cli.main(words) == 0
    assert json.loads(output.read_text())["pixels"]["knn"]["top1"] == 1.0
    words[words.index("--data.validation-source") + 1] = sources["more"]
    if not kind:
        capsys.readouterr()
        assert cli.main(words) == 2
        refusal = " ".join(capsys.readouterr().err.split())
        assert "data.validation_source has classes that data.source lacks: aphid" in refusal
        assert cli.main([*words, "--data.unknown-classes", "exclude"]) == 0
        metrics = json.loads(output.read_text())
        assert metrics["pixels"]["knn"]["top1"] == 1.0


@pytest.mark.slow
def test_fine_tuning_reports_the_right_classes(run, sources, tmp_path):
    chosen = tiny.replace(finetune_config(run[0]), "train", epochs=20, evaluate_every=0)
    results = finetune(run[0], tmp_path / "out", config=chosen, min_steps=0)
    found = results["fractions"]["1"]
    assert found["pixels"]["top1"] == 1.0
    trained = json.loads((tmp_path / "out" / "1-pretrained" / "results.json").read_text())
    confusion = np.array(trained["classifier"]["confusion"])
    assert confusion.sum(axis=1).tolist() == [8, 0, 8]
    refused = tiny.replace(chosen, "data", validation_source=sources["more"])
    with pytest.raises(UserError, match="lacks: aphid"):
        finetune(run[0], tmp_path / "refused", config=refused)


@pytest.mark.slow
def test_adaptation_trains_and_reports_by_the_sources_classes(run, sources, tmp_path):
    chosen = tiny.replace(finetune_config(run[0]), "adapt", target=sources["held"])
    chosen = tiny.replace(chosen, "data", validation_source="", validation_fraction=0.25)
    chosen = tiny.replace(chosen, "optimizer", name="adam", nesterov=False)
    chosen = tiny.replace(chosen, "optimizer", learning_rate=0.02, scaling="none")
    chosen = tiny.replace(chosen, "train", epochs=40, evaluate_every=0)
    results = adapt(run[0], tmp_path / "out", methods=("bn",), seeds=1, config=chosen)
    rows = results["rows"]
    assert rows["pixels"]["target"]["mean"] == 1.0
    # With its own numbers, "cat" of the target would be the source's "bee".
    assert rows["target"]["target"]["mean"] == 1.0
    other = tiny.replace(chosen, "adapt", target=sources["more"])
    with pytest.raises(UserError, match="lacks: aphid"):
        adapt(run[0], tmp_path / "refused", methods=("bn",), seeds=1, config=other)


def test_a_sweep_is_refused_before_its_first_trial(sources, tmp_path):
    space = type("Space", (), {"fields": (), "path": "space.py"})()
    good = config(sources["train"], sources["held"])
    assert objective.metric(good, space) == "knn.selection_top1"
    with pytest.raises(UserError, match="lacks: aphid"):
        objective.metric(config(sources["train"], sources["more"]), space)


@pytest.mark.slow
def test_embedding_writes_the_names_of_its_labels(run, sources, tmp_path):
    output = tmp_path / "features.npz"
    words = ["embed", str(run[0]), "--data.source", sources["held"], "--output", str(output)]
    assert cli.main(words) == 0
    content = np.load(output)
    for name, label in zip(content["names"], content["labels"], strict=True):
        assert name.startswith(content["classes"][label])
