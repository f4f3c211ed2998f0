"""SimCLR's TensorFlow checkpoints give the features and projections of its TensorFlow code."""

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.foreign import open_weights
from cssl_jax.experiment import builders
from cssl_jax.interop.resnet_weights import Architecture
from cssl_jax.interop.tf_files import simclr_weights, tf_checkpoint
from cssl_jax.runtime import spmd
from tests.helpers.marks import slow

simclr = pytest.importorskip("helpers.simclr_tensorflow", reason="TensorFlow is not installed")

# encoder, stem, sk_ratio, layers of the head: SimCLR, SimCLRv2, SimCLRv2 with selective kernels.
CASES = {
    "v1": ("resnet14", "imagenet", 0.0, 2),
    "v2 SK": ("resnet14", "imagenet", 0.0625, 3),
    "basic blocks": ("resnet10", "imagenet", 0.0, 1),
    "CIFAR SK": ("resnet14", "cifar", 0.0625, 3),
}
WIDTH, OUT, SIDE = 1 / 16, 5, 48


def write(folder, case):
    """(prefix, images float64, TensorFlow's features and projections float64)."""
    encoder, stem, ratio, layers = CASES[case]
    variables = simclr.Variables(seed=len(case))
    network = simclr.Network(variables, sk_ratio=ratio)
    images = np.random.default_rng(1).random((3, SIDE, SIDE + 2, 3))
    features = network.encode(images, encoder, WIDTH, cifar_stem=stem == "cifar")
    projections = network.project(features, layers, OUT)
    content = simclr.checkpoint(variables.values)
    if layers == 1:  # the linear head has another name
        content = {name.replace("/nl_0/", "/l_0/"): value for name, value in content.items()}
    simclr.save(folder / "model.ckpt-7", content)
    return folder / "model.ckpt-7", images, features.numpy(), projections.numpy()


@pytest.fixture(scope="module")
def selective(tmp_path_factory):
    return write(tmp_path_factory.mktemp("v2"), "v2 SK")


@pytest.mark.parametrize("case", ["v1", "v2 SK", slow("basic blocks"), slow("CIFAR SK")])
def test_features_and_projections_are_those_of_tensorflow(case, tmp_path, selective):
    encoder, stem, ratio, layers = CASES[case]
    prefix, images, features, projections = selective if case == "v2 SK" else write(tmp_path, case)
    opened = open_weights(prefix)
    model = opened.config.model
    variant = "simclr_sk" if ratio else "simclr"
    assert (model.encoder, model.stem, model.variant) == (encoder, stem, variant)
    assert (model.width, model.projector_layers, model.projector_dim) == (WIDTH, layers, OUT)
    method = builders.make_method(opened.config, spmd.make_mesh(jax.devices()[:1]))
    with jax.enable_x64(True):
        own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), opened.model)
        head = {
            "params": own["params"]["projector"],
            "batch_stats": own["model_state"]["projector"],
        }

        @jax.jit
        def run(variables, head, images):
            features = method.encoder.apply(variables, images, train=False)["features"]
            return features, method.projector.apply(head, features, train=False)

        found = jax.device_get(run(encoder_variables(own), head, images))
    # Both sides compute in float64 with the same weights; rounding adds up to 1e-14.
    for actual, expected in zip(found, (features, projections), strict=True):
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() < 1e-9 * np.abs(expected).max()


def test_every_array_of_the_checkpoint_is_accounted_for(selective):
    prefix = selective[0]
    content = tf_checkpoint.read(f"{prefix}.index")
    uses = simclr_weights.find_simclr(content).uses
    assert sum(use.count for use in uses) == len(content)
    lines = {use.what: (use.status, use.count) for use in uses}
    norms = 3 + 4 * 5  # stem; shortcut, three norms of a block and that of its selective kernel
    convs = norms + 4
    assert lines["encoder, from base_model/"] == ("taken", convs + 4 * norms)
    assert lines["projection head"] == ("taken", 3 * 5 - 1)
    assert lines["state of the optimizer"][0] == "left"
    other = (
        "ema_model/base_model/: another encoder; choose it by its prefix 'ema_model/base_model/'"
    )
    assert lines[other] == ("left", convs + 4 * norms)


def test_the_averaged_weights_are_taken_on_request(selective):
    own, averaged = (
        open_weights(selective[0], prefix=prefix).model["params"]["encoder"]["conv1"]["kernel"]
        for prefix in ("base_model/", "ema_model/base_model/")
    )
    np.testing.assert_array_equal(averaged, own + np.float32(1))
    with pytest.raises(UserError, match="no encoder has the prefix 'q'; use base_model/ or ema_"):
        open_weights(selective[0], prefix="q")


def test_a_checkpoint_is_named_by_its_prefix_its_files_or_its_folder(selective):
    prefix = selective[0]
    places = [prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", prefix.parent]
    opened = [open_weights(place) for place in places]
    assert len({one.meta["imported"]["sha256"] for one in opened}) == 1
    spec = opened[0].spec
    assert (spec.size, spec.mean, spec.std) == (224, (0.0,) * 3, (1.0,) * 3)
    assert (spec.interpolation, spec.crop_fraction) == ("bicubic", 0.875)


def test_a_folder_with_several_checkpoints_names_the_newest(selective, tmp_path):
    for name in ("model.ckpt-7", "model.ckpt-9"):
        for suffix in (".index", ".data-00000-of-00001"):
            source = selective[0].with_name(f"model.ckpt-7{suffix}")
            (tmp_path / f"{name}{suffix}").write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="has 2 checkpoints; give one, such as"):
        open_weights(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-9"\n')
    found = open_weights(tmp_path).meta["imported"]["file"]
    assert found == str(tmp_path / "model.ckpt-9.index")


@pytest.mark.slow
def test_an_imported_run_has_the_projection_head(selective, tmp_path):
    cssl_jax.import_weights(selective[0], tmp_path / "run")
    run = cssl_jax.load_encoder(tmp_path / "run")
    own = open_weights(selective[0]).model["params"]["projector"]
    for layer, leaves in own.items():
        for leaf, value in leaves.items():
            np.testing.assert_array_equal(run.model["params"]["projector"][layer][leaf], value)


@pytest.mark.parametrize(
    ("encoder", "variant", "convs", "norms"),
    [
        # Numbers of layers of the published checkpoints of depth 50, 101 and 152.
        *(("resnet50", "simclr", 53, 53), ("resnet101", "simclr", 104, 104)),
        *(("resnet152", "simclr", 155, 155), ("resnet50", "simclr_sk", 87, 71)),
        *(("resnet101", "simclr_sk", 172, 139), ("resnet152", "simclr_sk", 257, 207)),
    ],
)
def test_the_published_encoders_have_as_many_layers(encoder, variant, convs, norms):
    architecture = Architecture(
        encoder=encoder, width=1.0, stem="imagenet", channels=3, variant=variant
    )
    layers = list(simclr_weights.creation_order(architecture))
    assert (len(layers), sum(bool(layer.norm) for layer in layers)) == (convs, norms)


class Renamed(tf_checkpoint.Checkpoint):
    """A checkpoint under other names."""

    def __init__(self, content, names):
        self._content, self._names = content, names

    def __getitem__(self, name):
        return self._content[self._names[name]]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    @property
    def shapes(self):
        return {name: self._content.shapes[own] for name, own in self._names.items()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv2d_5/kernel": None}, "base_model/conv2d_.* are not numbered without gaps"),
        ({"conv2d_26/kernel": None}, "26 convolutions and 23 BatchNorms are those of no ResNet"),
        (
            {"conv2d_4/kernel": "conv2d_3/kernel"},
            r"conv2d_4/kernel has shape \(1, 1, 4, 16\) and that of a resnet14 .* \(1, 1, 4, 4\)",
        ),
        ({"batch_normalization_3/beta": None}, r"_3/beta has shape None .* \(16,\)"),
    ],
)
def test_other_layers_are_refused_with_the_first_that_differs(selective, changed, message):
    content = tf_checkpoint.read(f"{selective[0]}.index")
    names = {name: name for name in content}
    for name, other in changed.items():
        del names[f"base_model/{name}"]
        if other:
            names[f"base_model/{name}"] = f"base_model/{other}"
    with pytest.raises(UserError, match=message):
        simclr_weights.find_simclr(Renamed(content, names))
