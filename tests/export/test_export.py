"""Exported encoders are read by other libraries, and start other runs."""

import dataclasses
import json
import re

import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.interop import preprocessing, safetensors
from cssl_jax.interop.resnet_weights import Architecture, shapes
from helpers import tiny

SMALL = Architecture(encoder="resnet10", width=1 / 16, stem="cifar", channels=3)
IMAGENET = Architecture(encoder="resnet18", width=1.0, stem="imagenet", channels=3)


def arrays(architecture):
    rng = np.random.default_rng(0)
    content = {}
    for key, shape in shapes(architecture).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        content[key] = (scale * rng.normal(size=shape) + ("var" in key)).astype(np.float32)
    return content


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    safetensors.write(folder / "a.safetensors", arrays(SMALL))
    cssl_jax.import_weights(folder / "a.safetensors", folder / "run")
    return folder / "run"


def test_an_exported_file_has_the_arrays_that_were_imported(small, tmp_path):
    exported = cssl_jax.export_run(small, tmp_path / "out")
    assert exported.difference == 0
    assert len(exported.notes) == 3  # name, width and stem
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    counters = {key for key in content if key.endswith(".num_batches_tracked")}
    assert content.keys() - counters == arrays(SMALL).keys()
    assert len(counters) == sum(key.endswith("running_mean") for key in arrays(SMALL))
    for key, array in arrays(SMALL).items():
        np.testing.assert_array_equal(content[key], array, strict=True)


def test_the_exported_file_keeps_the_preprocessing(small, tmp_path):
    cssl_jax.export_run(small, tmp_path / "out")
    again = cssl_jax.load_encoder(tmp_path / "out" / "model.safetensors")
    assert again.spec == cssl_jax.load_encoder(small).spec
    card = (tmp_path / "out" / "README.md").read_text()
    assert again.spec.preparation in card
    assert "model.inplanes = 4" in card


def test_an_encoder_without_a_name_in_timm_is_refused_before_anything_is_written(small, tmp_path):
    with pytest.raises(UserError, match=r"no resnet10 .* width 0\.0625; they have no cifar stem"):
        cssl_jax.export_run(small, tmp_path / "out", format="timm")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_function_for_any_number_of_images(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(small), "--output", str(out), "--format", "stablehlo"]) == 0
    assert "JAX promises to read the file for 6 months" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"encoder.stablehlo", "README.md"}


@pytest.mark.slow
def test_a_folder_for_timm_names_the_encoder_and_the_preprocessing(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", arrays(IMAGENET))
    small = dataclasses.replace(preprocessing.assumed("imagenet", 3), size=28)
    cssl_jax.import_weights(tmp_path / "a.safetensors", tmp_path / "run", prepared=small)
    cssl_jax.export_run(tmp_path / "run", tmp_path / "out", format="timm")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["num_features"] == 512
    assert config["pretrained_cfg"]["crop_pct"] == 0.875
    again = cssl_jax.load_encoder(tmp_path / "out")
    assert again.spec == cssl_jax.load_encoder(tmp_path / "run").spec


def test_a_folder_with_files_is_refused(small, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        cssl_jax.export_run(small, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchvision", "safetensors"])
def test_a_run_on_one_half_starts_from_the_exported_encoder_of_the_other_half(format, tmp_path):
    source = tiny.image_source(120)
    for name, rows in (("first", slice(0, 60)), ("second", slice(60, 120))):
        np.savez(tmp_path / name, images=source.images[rows], labels=source.labels[rows])
    base = recipes.load(tiny.write_recipe(tmp_path, epochs=2))
    model = {"model.encoder": "resnet10", "model.width": 1 / 16, "model.stem": "cifar"}
    base = base.replace({**model, "runtime.devices": 1, "data.source": str(tmp_path / "first.npz")})
    cssl_jax.pretrain(base, tmp_path / "half")
    cssl_jax.export_run(tmp_path / "half", tmp_path / "out", format=format)
    second = {"data.source": str(tmp_path / "second.npz")}
    tops = {}
    for name, init in (("random", ""), ("exported", str(tmp_path / "out" / "model.safetensors"))):
        config = base.replace({**second, "train.init": init})
        results = cssl_jax.pretrain(config, tmp_path / name)
        assert results.linear is not None
        tops[name] = results.linear.top1
    origin = json.loads((tmp_path / "exported" / "results.json").read_text())["init"]
    assert origin["modules"] == ["encoder"]
    hashes = [
        cssl_jax.load_encoder(tmp_path / "half"),
        cssl_jax.load_encoder(tmp_path / "out" / "model.safetensors"),
    ]
    assert len({variables_hash(encoder.model) for encoder in hashes}) == 1
    # Both probes are in one table of the report.
    report = cssl_jax.write_report(
        [tmp_path / name for name in tops], tmp_path / "report.html", images=0, figures=False
    )
    tables = report.with_suffix(".md").read_text().split("\n\n")
    wanted = [rf"(?m)^\| {name}: trained.*\b{100 * top:.1f}" for name, top in tops.items()]
    assert any(all(re.search(row, table) for row in wanted) for table in tables)
    # The first step of the second run had the exported weights: random ones have another loss.
    first = {
        name: json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in tops
    }
    assert first["exported"] != first["random"]
