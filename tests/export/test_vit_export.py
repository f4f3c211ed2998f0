"""Exported Vision Transformers have the names of other libraries, and are read back."""

import json

import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.export import stablehlo
from cssl_jax.interop import safetensors
from cssl_jax.interop.vit.huggingface_vit import huggingface_names
from cssl_jax.interop.vit.torchvision_vit import torchvision_names
from cssl_jax.interop.vit.vit_weights import ViTArchitecture, shapes
from helpers import tiny

SMALL = ViTArchitecture(
    encoder="vit_micro",
    width=1 / 8,
    patch=4,
    heads=6,
    pool="token",
    layer_scale=False,
    size=8,
    channels=3,
)


def arrays(**options):
    rng = np.random.default_rng(0)
    architecture = ViTArchitecture(**{**vars(SMALL), **options})
    return {
        key: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for key, shape in shapes(architecture).items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    safetensors.write(folder / "a.safetensors", arrays())
    command = ["import", str(folder / "a.safetensors"), "--workdir", str(folder / "run")]
    assert cli.main([*command, "--heads", "6"]) == 0
    return folder / "run"


def test_a_folder_for_timm_has_the_imported_arrays_and_states_the_heads(run, tmp_path):
    exported = cssl_jax.export_run(run, tmp_path / "out", format="timm")
    assert exported.difference == 0
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    assert content.keys() == arrays().keys()
    for key, array in arrays().items():
        np.testing.assert_array_equal(content[key], array, strict=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["num_features"] == 24
    assert config["model_args"] == {
        "img_size": 8,
        "patch_size": 4,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 6,
        "in_chans": 3,
        "class_token": True,
        "global_pool": "token",
    }
    again = cssl_jax.load_encoder(tmp_path / "out")
    assert again.config.model == cssl_jax.load_encoder(run).config.model
    assert "heads 6" in (tmp_path / "out" / "README.md").read_text()


def test_a_file_for_torchvision_has_its_names_and_the_lines_that_build_its_module(run, tmp_path):
    exported = cssl_jax.export_run(run, tmp_path / "out")
    assert exported.difference == 0
    assert exported.notes == ()
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    assert content.keys() == torchvision_names(arrays()).keys()
    assert "VisionTransformer(8, 4, 2, 6, 24, 96)" in (tmp_path / "out" / "README.md").read_text()


def test_a_file_that_states_no_heads_is_refused_with_the_option_that_states_them(tmp_path, capsys):
    safetensors.write(tmp_path / "a.safetensors", arrays())
    command = ["import", str(tmp_path / "a.safetensors"), "--workdir", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "--heads 3` makes a run with it" in capsys.readouterr().err
    with pytest.raises(UserError, match="does not state the number of attention heads"):
        cssl_jax.load_encoder(tmp_path / "a.safetensors")


def test_a_folder_for_transformers_has_its_names_and_states_the_sizes(run, tmp_path):
    exported = cssl_jax.export_run(run, tmp_path / "out", format="huggingface")
    assert exported.difference == 0
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    assert content.keys() == huggingface_names(arrays()).keys()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("vit", ["ViTModel"])
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [config[name] for name in sizes] == [24, 2, 6, 96]
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'from_pretrained("out", add_pooling_layer=False)' in text
    assert "features = outputs.last_hidden_state[:, 0]" in text
    again = cssl_jax.load_encoder(tmp_path / "out")
    assert again.config.model == cssl_jax.load_encoder(run).config.model


def test_transformers_computes_the_features(run, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    cssl_jax.export_run(run, tmp_path / "out", format="huggingface")
    encoder = cssl_jax.load_encoder(run)
    spec = encoder.spec
    images = np.random.default_rng(1).integers(0, 256, (3, spec.resized, spec.resized, 3), np.uint8)
    start = (spec.resized - spec.size) // 2
    inner = images[:, start : start + spec.size, start : start + spec.size]
    x = (inner / np.float32(255) - np.array(spec.mean)) / np.array(spec.std)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32)))
    features = encoder(images)
    difference = np.abs(found.last_hidden_state[:, 0].numpy() - features).max()
    assert difference < 1e-5 * np.abs(features).max()


@pytest.mark.slow
def test_layer_scale_is_written_for_transformers_as_dinov2(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", arrays(layer_scale=True))
    cssl_jax.import_weights(tmp_path / "a.safetensors", tmp_path / "run", heads=6)
    exported = cssl_jax.export_run(tmp_path / "run", tmp_path / "out", format="huggingface")
    assert exported.difference == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "dinov2"
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(
        content["encoder.layer.1.layer_scale2.lambda1"],
        arrays(layer_scale=True)["blocks.1.ls2.gamma"],
    )


@pytest.mark.slow
def test_a_mean_of_patches_is_refused_by_torchvision_and_written_for_timm(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", arrays(pool="mean", layer_scale=True))
    cssl_jax.import_weights(tmp_path / "a.safetensors", tmp_path / "run", heads=6)
    with pytest.raises(UserError, match=r"no ViT with the mean .* LayerScale\. Use --format timm"):
        cssl_jax.export_run(tmp_path / "run", tmp_path / "out")
    with pytest.raises(UserError, match=r"transformers cannot .* no ViT with the mean"):
        cssl_jax.export_run(tmp_path / "run", tmp_path / "out", format="huggingface")
    cssl_jax.export_run(tmp_path / "run", tmp_path / "out", format="timm")
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    assert "fc_norm.weight" in content
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["global_pool"] == "avg"
    assert config["model_args"]["init_values"] > 0


@pytest.mark.slow
def test_fixed_positions_are_written_as_a_table(tmp_path):
    recipe = recipes.load(tiny.write_recipe(tmp_path, epochs=1))
    values = {
        "model.encoder": "vit_micro",
        "model.width": 1 / 8,
        "model.patch": 4,
        "model.positions": "sincos_moco_v3",
        "runtime.devices": 1,
    }
    cssl_jax.pretrain(recipe.replace(values), tmp_path / "run")
    exported = cssl_jax.export_run(tmp_path / "run", tmp_path / "out", format="timm")
    assert exported.difference < 1e-6
    table = safetensors.read(tmp_path / "out" / "model.safetensors")["pos_embed"]
    assert table.shape == (1, 5, 24)
    np.testing.assert_array_equal(table[0, 0], np.zeros(24))
    # Patch 3 is at row 1 and column 1, whose first frequency is 1.
    expected = [np.sin(1), np.cos(1), np.sin(1), np.cos(1)]
    np.testing.assert_allclose(table[0, 4, ::6], expected, rtol=1e-6)


def test_a_function_takes_any_number_of_images(run, tmp_path):
    exported = cssl_jax.export_run(run, tmp_path / "out", format="stablehlo")
    assert exported.difference < 1e-5
    encoder = cssl_jax.load_encoder(run)
    side = encoder.spec.resized
    images = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), np.uint8)
    features = stablehlo.run(tmp_path / "out" / stablehlo.FILE, images)
    np.testing.assert_allclose(features, encoder(images), rtol=1e-5, atol=1e-5)
