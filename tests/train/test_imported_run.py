"""Weights of other libraries as run folders, as first weights, and as encoders."""

import json
import shlex

import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.cli import main as cli
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.foreign import open_weights
from cssl_jax.interop import safetensors
from cssl_jax.interop.resnet_weights import Architecture, shapes
from cssl_jax.modalities import image
from cssl_jax.report.run_reader import open_run
from cssl_jax.report.tables import repeat_command
from helpers import tiny

SMALL = Architecture(encoder="resnet10", width=1 / 16, stem="cifar", channels=1)
INPUT = {"size": 8, "mean": [0.4], "std": [0.2], "interpolation": "bilinear", "crop_fraction": 1.0}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    content = {}
    for key, shape in shapes(SMALL).items():
        content[key] = rng.normal(size=shape).astype(np.float32)
        if key.endswith("running_var"):
            content[key] = np.abs(content[key]) + 0.5
    return content


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.write(path, arrays(), {"cssl_jax": json.dumps({"input": INPUT})})
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    source = tiny.image_source(48)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return path


@pytest.fixture(scope="module")
def imported(weights, images, tmp_path_factory):
    run = tmp_path_factory.mktemp("imported") / "run"
    command = ["import", str(weights), "--workdir", str(run), "--source", str(images)]
    assert cli.main(command) == 0
    return run


def test_a_file_and_its_run_folder_are_the_same_encoder(weights, imported, images):
    file, run = cssl_jax.load_encoder(weights), cssl_jax.load_encoder(imported)
    assert file.spec == run.spec == ImageSpec(8, 1, (0.4,), (0.2,))
    assert file.config.model == run.config.model
    with np.load(images) as content:
        np.testing.assert_array_equal(file(content["images"]), run(content["images"]))
    kernel = run.model["params"]["encoder"]["layer3_0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays()["layer3.0.conv2.weight"].transpose(2, 3, 1, 0))


def test_the_run_folder_says_what_it_holds(weights, imported):
    known = json.loads((imported / "import.json").read_text())
    assert known["file"] == str(weights)
    assert len(known["sha256"]) == 64
    assert known["arrays"][0] == {
        "status": "taken",
        "count": len(arrays()),
        "what": "encoder, from (no prefix)",
    }
    with Checkpoints(imported, read_only=True) as checkpoints:
        assert checkpoints.steps == [0]


@pytest.mark.slow
def test_the_report_names_the_command_that_imports_again(imported, weights, images, tmp_path):
    command = f"cssl-jax import {weights} --workdir NEW_RUN --source {images}"
    assert repeat_command(open_run(imported)) == command
    # The command is accepted, options included.
    prepared = open_weights(weights).preprocessing.changed(size=16, mean=(0.3,), std=(0.1,))
    cssl_jax.import_weights(weights, tmp_path / "first", prepared=prepared)
    words = shlex.split(repeat_command(open_run(tmp_path / "first")))
    words[words.index("NEW_RUN")] = str(tmp_path / "second")
    assert cli.main(words[1:]) == 0
    specs = {cssl_jax.load_encoder(tmp_path / name).spec for name in ("first", "second")}
    assert {(spec.size, spec.mean, spec.std) for spec in specs} == {(16, (0.3,), (0.1,))}


def test_the_imported_run_is_embedded_and_evaluated(imported, images, tmp_path, capsys):
    output = tmp_path / "features.npz"
    command = ["embed", str(imported), "--data.source", str(images), "--output", str(output)]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "input: centre square of 1 of the shorter side, resized to 8 px (bilinear)" in text
    with np.load(output) as content:
        assert content["features"].shape == (48, 32)
    results = cssl_jax.evaluate_run(imported, "knn")
    assert results.step == 0
    assert results.knn is not None
    saved = json.loads((imported / "results.json").read_text())
    assert saved["knn"]["top1"] == results.knn.top1


@pytest.mark.slow
def test_a_run_starts_from_the_file_as_from_the_folder(weights, imported, tmp_path):
    recipe = recipes.load(tiny.write_recipe(tmp_path, epochs=1))
    model = {"model.encoder": "resnet10", "model.width": 1 / 16, "model.stem": "cifar"}
    recipe = recipe.replace({**model, "runtime.devices": 1, "evaluate.online_l2_values": (1.0,)})
    runs = []
    for name, init in (("file", weights), ("folder", imported)):
        cssl_jax.pretrain(recipe.replace({"train.init": str(init)}), tmp_path / name)
        runs.append(cssl_jax.load_encoder(tmp_path / name))
    first, second = (run.model["params"]["encoder"]["conv1"]["kernel"] for run in runs)
    np.testing.assert_array_equal(first, second)
    origin = json.loads((tmp_path / "file" / "results.json").read_text())["init"]
    assert origin["branch"] == "(no prefix)"
    assert origin["modules"] == ["encoder"]
    assert "--data.mean 0.4 --data.std 0.2" in origin["note"]


def test_another_encoder_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match="weights of a resnet10, not of a resnet50"):
        cssl_jax.import_weights(weights, tmp_path / "run", encoder="resnet50")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_is_refused(weights, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        cssl_jax.import_weights(weights, tmp_path)


def test_imported_weights_are_not_trained_in_place(imported):
    with pytest.raises(UserError, match=f"use another --workdir and --init {imported}"):
        cssl_jax.pretrain(recipes.load("debug"), imported)


def test_a_file_is_no_run_folder(weights):
    with pytest.raises(UserError, match=r"cssl-jax import .* --workdir RUN"):
        cssl_jax.evaluate_run(weights, "knn")


@pytest.mark.slow
def test_the_preprocessing_of_the_command_line_replaces_that_of_the_file(weights, tmp_path):
    run = tmp_path / "run"
    options = ["--mean", "0.1", "--std", "0.3", "--size", "12", "--crop-fraction", "0.75"]
    command = ["import", str(weights), "--workdir", str(run), *options]
    assert cli.main([*command, "--interpolation", "bicubic"]) == 0
    spec = cssl_jax.load_encoder(run).spec
    assert spec == ImageSpec(12, 1, (0.1,), (0.3,), interpolation="bicubic", crop_fraction=0.75)


def test_a_crop_fraction_takes_the_centre_without_resizing():
    spec = ImageSpec(6, 1, (0.0,), (1.0,), crop_fraction=0.75)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    source = ArraySource("images", images)
    (block,) = source.blocks(2, **spec.reading)
    prepared = image.prepare(block, spec)
    np.testing.assert_allclose(prepared, images[:, 1:7, 1:7] / 255, rtol=1e-6)
