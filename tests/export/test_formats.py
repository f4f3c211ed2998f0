"""Formats beside torchvision's: what other libraries open, and what they cannot express."""

import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.foreign import open_weights
from cssl_jax.interop import safetensors
from cssl_jax.interop.preprocessing import KEY
from cssl_jax.interop.resnet_weights import Architecture, shapes
from helpers import tiny

INPUT = {
    "size": 28,
    "mean": [0.4],
    "std": [0.2],
    "interpolation": "bicubic",
    "crop_fraction": 0.875,
}


def write(path, architecture, variant="torchvision"):
    """A file with torchvision's names, seeded weights and a stated input."""
    rng = np.random.default_rng(0)
    content = {}
    for key, shape in shapes(architecture).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        positive = key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight"))
        content[key] = (scale * rng.normal(size=shape) + positive).astype(np.float32)
    stored = {"input": INPUT, "model": {"variant": variant}}
    safetensors.write(path, content, {KEY: json.dumps(stored)})
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """ResNet-14 with half of a stem, which transformers has and timm has not."""
    architecture = Architecture(encoder="resnet14", width=1 / 16, stem="imagenet", channels=1)
    return write(tmp_path_factory.mktemp("wide") / "a.safetensors", architecture)


def images_of(encoder, seed=1):
    spec = encoder.spec
    shape = (3, spec.resized, spec.resized, spec.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def check_close(actual, expected):
    """Both sides compute in float32, whose rounding adds up to about 1e-6 over 17 layers."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_folder_for_transformers_states_sizes_and_preprocessing(wide, tmp_path):
    cssl_jax.export_run(wide, tmp_path / "out", format="huggingface")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "resnet"
    assert config["embedding_size"] == 4
    assert config["hidden_sizes"] == [16, 32, 64, 128]
    assert (config["depths"], config["layer_type"]) == ([1, 1, 1, 1], "bottleneck")
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 28}
    assert (processor["crop_pct"], processor["resample"]) == (0.875, 3)  # 3: PIL's bicubic
    content = safetensors.read(tmp_path / "out" / "model.safetensors")
    assert content["embedder.embedder.convolution.weight"].shape == (4, 1, 7, 7)
    assert content["encoder.stages.2.layers.0.shortcut.normalization.running_var"].shape == (64,)
    own = safetensors.read(wide)["layer2.0.conv3.weight"]
    np.testing.assert_array_equal(
        content["encoder.stages.1.layers.0.layer.2.convolution.weight"], own
    )


def test_transformers_computes_the_features(wide, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    cssl_jax.export_run(wide, tmp_path / "out", format="huggingface")
    encoder = cssl_jax.load_encoder(wide)
    images = images_of(encoder)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    x = (images[:, 2:30, 2:30].transpose(0, 3, 1, 2) / np.float32(255) - 0.4) / 0.2
    with torch.no_grad():
        found = model(torch.from_numpy(x.astype(np.float32))).pooler_output.flatten(1).numpy()
    check_close(found, encoder(images))


def test_onnx_models_compute_the_features(wide, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    cssl_jax.export_run(wide, tmp_path / "out", format="onnx")
    encoder = cssl_jax.load_encoder(wide)
    session = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"))
    images = images_of(encoder)
    check_close(session.run(None, {"images": images})[0], encoder(images))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "savedmodel", "safetensors"])
def test_selective_kernels_are_exported(format, tmp_path):
    """The features of what was written are compared with those of the run in ``export_run``."""
    simclr = pytest.importorskip("helpers.simclr_tensorflow", reason="TensorFlow is not installed")
    if format == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
    variables = simclr.Variables()
    network = simclr.Network(variables, sk_ratio=0.0625)
    network.encode(np.zeros((1, 32, 32, 3)), "resnet14", 1 / 16)
    simclr.save(tmp_path / "model", simclr.checkpoint(variables.values))
    exported = cssl_jax.export_run(tmp_path / "model", tmp_path / "out", format=format)
    assert exported.difference < 1e-5


def test_without_onnx_its_format_names_what_to_install(wide, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r'pip install "cssl_jax\[onnx\]"'):
        cssl_jax.export_run(wide, tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_saved_model_computes_the_features(wide, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    cssl_jax.export_run(wide, tmp_path / "out", format="savedmodel")
    encoder = cssl_jax.load_encoder(wide)
    images = images_of(encoder)
    loaded = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    found = loaded.signatures["serving_default"](images=tf.constant(images))["features"]
    check_close(found.numpy(), encoder(images))


def test_a_file_of_own_names_is_the_same_encoder(wide, tmp_path):
    exported = cssl_jax.export_run(wide, tmp_path / "out", format="safetensors")
    assert exported.difference == 0
    file = tmp_path / "out" / "model.safetensors"
    assert safetensors.read(file)["params/layer1_0/conv2/kernel"].shape == (3, 3, 4, 4)
    again, before = cssl_jax.load_encoder(file), cssl_jax.load_encoder(wide)
    assert again.spec == before.spec
    assert again.config.model == before.config.model
    opened = open_weights(file)
    assert opened.uses[0].count == len(jax.tree.leaves(before.model))
    assert "encoder  resnet14, width 0.0625, modality image" in opened.describe()


@pytest.mark.slow
def test_an_encoder_of_series_is_exported_under_own_names(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 24, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", values=values, labels=np.arange(60) % 2)
    config = recipes.with_modality(tiny.config(epochs=1), "series")
    config = tiny.replace(config, "model", encoder="resnet1d", width=1 / 16)
    config = tiny.replace(config, "data", source=str(tmp_path / "a.npz"))
    config = tiny.replace(config, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)
    cssl_jax.pretrain(config, tmp_path / "run")
    out = tmp_path / "out"
    assert cssl_jax.export_run(tmp_path / "run", out, format="safetensors").difference == 0
    runs = [cssl_jax.load_encoder(place) for place in (tmp_path / "run", out / "model.safetensors")]
    assert runs[0].spec == runs[1].spec
    np.testing.assert_array_equal(*(run.embed(str(tmp_path / "a.npz")) for run in runs))


def damaged(file, path, **changes):
    """The file with other metadata."""
    stored = json.loads(safetensors.read_metadata(file)[KEY])
    for name, value in changes.items():
        stored = {**stored, name: value(stored[name])}
    safetensors.write(path, safetensors.read(file), {KEY: json.dumps(stored)})
    return path


def test_a_file_of_own_names_with_wrong_metadata_is_refused(wide, tmp_path):
    cssl_jax.export_run(wide, tmp_path / "out", format="safetensors")
    file, path = tmp_path / "out" / "model.safetensors", tmp_path / "a.safetensors"
    for changes, message in (
        ({"model": lambda m: {**m, "width": 0.125}}, r"has shape \(4,\), and that of a resnet14"),
        ({"model": lambda m: {**m, "encoder": "mine.py:ENCODER"}}, "is none of this package"),
        ({"model": lambda m: {**m, "encoder": "resnet1O"}}, "'resnet1O'"),
        ({"model": lambda m: {**m, "layers": 3}}, "layers"),
        ({"input": lambda i: {**i, "sides": 3}}, "its metadata are damaged"),
        ({"data": lambda d: []}, "a part is no object"),
    ):
        with pytest.raises(UserError, match=message):
            open_weights(damaged(file, path, **changes))


def test_the_padding_of_simclr_survives_torchvision_names(tmp_path):
    architecture = Architecture(encoder="resnet14", width=1 / 16, stem="imagenet", channels=1)
    file = write(tmp_path / "a.safetensors", architecture, variant="simclr")
    exported = cssl_jax.export_run(file, tmp_path / "out")
    assert exported.difference == 0
    assert any("no ResNet of the variant simclr" in note for note in exported.notes)
    again = cssl_jax.load_encoder(tmp_path / "out" / "model.safetensors")
    assert again.config.model.variant == "simclr"
    # The stem gives 14 positions, an even number: torch pads them below and right by ceil_mode.
    card = (tmp_path / "out" / "README.md").read_text()
    assert "model.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)" in card


@pytest.mark.parametrize(
    ("stem", "variant", "format", "message"),
    [
        ("cifar", "torchvision", "huggingface", "transformers cannot build .* no cifar stem"),
        ("imagenet", "simclr", "huggingface", "it has no variant simclr"),
        ("imagenet", "simclr", "timm", "no ResNet of the variant simclr.*--format torchvision"),
    ],
)
def test_what_a_library_cannot_express_is_refused_first(stem, variant, format, message, tmp_path):
    architecture = Architecture(encoder="resnet14", width=1 / 16, stem=stem, channels=1)
    file = write(tmp_path / "a.safetensors", architecture, variant)
    with pytest.raises(UserError, match=message):
        cssl_jax.export_run(file, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_every_format():
    from cssl_jax.cli.commands.export import Export
    from cssl_jax.export.exported import FORMATS

    assert set(Export.__dataclass_fields__["format"].type.__args__) == set(FORMATS)
