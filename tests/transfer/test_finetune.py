"""Fine-tuning: trained parameters, label fractions, learning rates and baselines."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import scipy.special

from cssl_jax import finetune, finetune_config, load_encoder, pretrain, recipes
from cssl_jax.cli import main as cli
from cssl_jax.data.sources.base import labelled_fraction
from cssl_jax.errors import UserError
from cssl_jax.experiment import data_splits
from cssl_jax.methods.base import Context
from cssl_jax.methods.supervised.classifier import Classifier
from cssl_jax.models.registry import build_encoder
from cssl_jax.optim.schedules import scaled_learning_rate
from cssl_jax.runtime import spmd
from cssl_jax.transfer.finetune import adjust_to_labels
from helpers import tiny

CLASSES = 3


def config(**classifier):
    changed = recipes.with_method(tiny.config(), "classifier")
    changed = tiny.replace(changed, "optimizer", name="sgd", learning_rate=0.1)
    return tiny.replace(changed, "classifier", num_classes=CLASSES, **classifier)


def gradients(devices, **classifier):
    run = tiny.Run(config(**classifier), devices)
    gradient = run.gradient()
    state = run.state()
    kernel = state.params["classifier"]["kernel"]
    # With the zero-initialised kernel no gradient would reach the encoder.
    noise = jax.random.normal(jax.random.key(1), kernel.shape)
    params = {**state.params, "classifier": {**state.params["classifier"], "kernel": noise}}
    replicated = spmd.replicate(jax.device_get(state.replace(params=params)), run.mesh)
    return jax.device_get(
        run.spread(gradient)(replicated, run.constants, next(run.host_batches(0, 1)))[0]
    )


@pytest.mark.slow
def test_raw_gradients_do_not_depend_on_devices():
    one, four = (gradients(devices, dropout=0.5) for devices in (1, 4))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * largest


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_smoothed_cross_entropy(smoothing):
    method = Classifier(None, None, CLASSES, label_smoothing=smoothing)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, CLASSES)) * 3, rng.integers(0, CLASSES, 7)
    ctx = Context(np.int32(0), 1, None)
    loss, metrics, _ = method.objective({}, {}, np.float32(logits), {"label": labels}, ctx)
    log_p = scipy.special.log_softmax(logits, axis=1)
    log_likelihood = np.mean(log_p[np.arange(7), labels])
    expected = -(1 - smoothing) * log_likelihood - smoothing * log_p.mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(logits.argmax(1) == labels))


def changed_layers(before, after):
    """Names, as module/layer, of parameters that differ in any entry."""
    names = set()
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if not np.array_equal(a, b):
            names.add(f"{path[0].key}/{path[1].key}")
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "trained"),
    [
        (0, {"classifier/kernel", "classifier/bias"}),
        (1, {"classifier/kernel", "classifier/bias", "encoder/layer2_0"}),
        (2, {"classifier/kernel", "classifier/bias", "encoder/layer1_0", "encoder/layer2_0"}),
    ],
)
def test_only_the_selected_stages_are_trained(stages, trained):
    run = tiny.Run(config(stages=stages))
    before = jax.device_get(run.state())
    losses, after = run.train(3)
    assert changed_layers(before.params, after.params) == trained
    # A probe of a frozen encoder must not change its running statistics either.
    jax.tree.map(np.testing.assert_array_equal, before.model_state, after.model_state)
    # The classifier is zero-initialised, so the first prediction is uniform.
    assert losses[0] == pytest.approx(np.log(CLASSES), rel=1e-6)


def test_the_whole_encoder_and_its_statistics_are_trained_by_default():
    run = tiny.Run(config())
    before = jax.device_get(run.state())
    losses, after = run.train(12)
    assert {"encoder/conv1", "encoder/layer1_0"} <= changed_layers(before.params, after.params)
    assert not np.array_equal(
        before.model_state["encoder"]["bn1"]["mean"], after.model_state["encoder"]["bn1"]["mean"]
    )
    assert losses[-1] < losses[0]


def test_the_learning_rate_decreases_by_a_factor_per_stage():
    encoder = build_encoder("resnet18")
    method = Classifier(encoder, "a head", CLASSES, layer_decay=0.5)

    def rate_factor(*names):
        path = tuple(jax.tree_util.DictKey(name) for name in names)
        return method.parameter_group(path).learning_rate

    assert rate_factor("classifier", "kernel") == 1
    assert rate_factor("head", "dense1", "kernel") == 0.5
    assert rate_factor("encoder", "layer4_1", "conv1", "kernel") == 0.25
    assert rate_factor("encoder", "layer1_0", "bn1", "scale") == 0.5**5
    assert rate_factor("encoder", "conv1", "kernel") == 0.5**6
    without = dataclasses.replace(method, head=None)
    key = jax.tree_util.DictKey
    assert without.parameter_group((key("encoder"), key("layer4_0"))).learning_rate == 0.5


def test_a_head_is_initialised_with_the_hidden_layers_of_the_projector():
    simclr = tiny.Run(tiny.config())
    run = tiny.Run(config(head_layers=1))
    pretrained = jax.device_get(simclr.state()).model
    model = run.method.adopt(jax.device_get(run.state()).model, pretrained)
    assert set(model["params"]) == {"encoder", "head", "classifier"}
    jax.tree.map(
        np.testing.assert_array_equal,
        model["params"]["head"],
        {name: pretrained["params"]["projector"][name] for name in ("dense1", "bn1")},
    )
    layer, norm = model["params"]["head"]["dense1"], model["params"]["head"]["bn1"]
    features = np.float32(np.random.default_rng(0).normal(size=(5, len(layer["kernel"]))))
    variables = {
        "params": model["params"]["head"],
        "batch_stats": model["model_state"]["head"],
    }
    hidden = run.method.head.apply(variables, features)
    expected = features @ layer["kernel"] / np.sqrt(1 + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(hidden, np.maximum(expected, 0), atol=1e-4)


def test_a_label_fraction_is_stratified_and_nested_in_larger_fractions():
    source = tiny.image_source(size=200, classes=4)
    source = dataclasses.replace(source, labels=np.where(np.arange(200) % 5, source.labels, -1))
    full = labelled_fraction(source, 1.0, seed=3)
    np.testing.assert_array_equal(full.labels, source.labels[source.labels >= 0])
    selections = []
    for fraction in (0.001, 0.1, 0.5):
        selected = labelled_fraction(source, fraction, seed=3)
        counts = np.bincount(selected.labels, minlength=4)
        totals = np.bincount(full.labels, minlength=4)
        np.testing.assert_array_equal(counts, np.maximum(1, np.round(fraction * totals)))
        selections.append({image.tobytes() for image in selected.images})
    assert selections[0] < selections[1] < selections[2]
    other = labelled_fraction(source, 0.1, seed=4)
    assert {image.tobytes() for image in other.images} != selections[1]


def imagenet(**train):
    """Fine-tuning config of the SimCLR paper (App. B.5): batch 4,096, rate 0.05 N / 256."""
    chosen = {"batch_size": 4096, "epochs": 30, "evaluate_every": 10, **train}
    changed = tiny.replace(tiny.config(), "train", **chosen)
    return tiny.replace(changed, "optimizer", learning_rate=0.05, scaling="linear")


def test_fractions_of_imagenet_are_trained_for_as_many_epochs_as_in_the_paper():
    tenth, hundredth = (adjust_to_labels(imagenet(), labels, 180) for labels in (128_116, 12_811))
    assert tenth == imagenet()  # 30 epochs
    assert hundredth == imagenet(epochs=60, evaluate_every=20, checkpoint_every=2)


@pytest.mark.parametrize(
    ("requested", "labels", "batch", "rate"),
    [
        (4096, 12, 12, 0.05),  # learning rate of 256 images
        (128, 12, 12, 0.025),  # learning rate of the requested batch
        (4096, 1024, 1024, 0.2),  # above 256 images the linear rule applies
        (128, 145, 128, 0.025),
    ],
)
def test_a_batch_of_all_labels_does_not_lower_the_learning_rate(requested, labels, batch, rate):
    adjusted = adjust_to_labels(
        tiny.replace(imagenet(), "train", batch_size=requested), labels, 180
    )
    optimizer, train = adjusted.optimizer, adjusted.train
    assert train.batch_size == batch
    peak = scaled_learning_rate(optimizer.learning_rate, train.batch_size, optimizer.scaling)
    assert peak == pytest.approx(rate)
    assert train.epochs == 180  # one step per epoch


def test_a_stretched_schedule_keeps_its_shape():
    short = tiny.replace(imagenet(evaluate_every=5), "optimizer", warmup_epochs=3.0)
    adjusted = adjust_to_labels(short, 12, 180)
    assert adjusted.optimizer.warmup_epochs == 18
    assert adjusted.train.evaluate_every == 30
    unstretched = adjust_to_labels(short, 12, 0)
    assert unstretched.train == dataclasses.replace(short.train, batch_size=12)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folder of a minimal run that can be fine-tuned."""
    folder, source = tmp_path_factory.mktemp("small"), tiny.image_source()
    np.savez(folder / "images.npz", images=source.images, labels=source.labels)
    config = tiny.config(epochs=1, evaluate_every=0, tensorboard=False)
    pretrain(tiny.replace(config, "data", source=str(folder / "images.npz")), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(small, tmp_path_factory):
    """(folder, results) of a short fine-tuning with few labels and with all labels."""
    folder = tmp_path_factory.mktemp("finetune") / "tuned"
    chosen = tiny.replace(finetune_config(small), "train", epochs=3)
    chosen = tiny.replace(chosen, "optimizer", learning_rate=0.4)
    return folder, finetune(small, folder, fractions=(0.001, 1.0), min_steps=0, config=chosen)


@pytest.mark.slow
def test_results_include_random_weights_and_pixel_baselines(tuned):
    folder, results = tuned
    assert json.loads((folder / "finetune.json").read_text()) == results.to_json()
    for fraction, labels in (("0.001", 3), ("1", 38)):
        metrics = results["fractions"][fraction]
        assert metrics["labels"] == labels  # three images use one of the 2 devices
        for row in ("pretrained", "random", "features", "pixels"):
            assert 0 <= metrics[row]["top1"] <= metrics[row]["top5"] <= 1
        assert metrics["pretrained"]["batch_size"] == min(16, labels)
        assert metrics["pretrained"]["steps"] == 3 * (labels // metrics["pretrained"]["batch_size"])
    # The two runs differ in their initial weights only.
    paths = [folder / f"1-{start}" / "config.json" for start in ("pretrained", "random")]
    differing = recipes.differing_fields(*map(recipes.read_json, paths))
    assert list(differing) == ["train.init"]


@pytest.mark.slow
def test_the_reported_accuracy_is_that_of_the_saved_model(tuned):
    folder, results = tuned
    encoder = load_encoder(folder / "1-pretrained")
    _, validation = data_splits.load_data(encoder.config)
    params = encoder.model["params"]["classifier"]
    logits = encoder.embed(validation) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    top1 = np.mean(logits.argmax(1) == validation.labels)
    assert results["fractions"]["1"]["pretrained"]["top1"] == pytest.approx(top1, abs=3e-3)
    assert "not selected on any data" in results["selection"]["words"]


@pytest.mark.slow
def test_a_linear_probe_by_sgd_does_not_change_the_encoder(small, tmp_path):
    chosen = tiny.replace(finetune_config(small), "train", epochs=1)
    chosen = tiny.replace(chosen, "classifier", stages=0)
    finetune(small, tmp_path, min_steps=0, config=chosen)
    before, after = load_encoder(small).model, load_encoder(tmp_path / "1-pretrained").model
    for name in ("params", "model_state"):
        jax.tree.map(np.testing.assert_array_equal, before[name]["encoder"], after[name]["encoder"])


def test_the_held_out_images_do_not_depend_on_the_seed(small):
    chosen = tiny.replace(finetune_config(small), "train", seed=7)
    _, before = data_splits.load_data(load_encoder(small).config)
    _, after = data_splits.load_data(chosen)
    assert before.fingerprint() == after.fingerprint()


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("classifier", {"num_classes": 1}, "num_classes is 1"),
        ("classifier", {"head_layers": 2}, "has 1 hidden layer"),
        ("classifier", {"stages": -1}, "stages is -1"),
        ("classifier", {"label_fraction": 0.0}, r"label_fraction is 0\.0"),
        ("train", {"micro_batch": 8}, "smaller train.batch_size"),
    ],
)
def test_invalid_options_are_rejected_by_name(section, fields, message):
    with pytest.raises(UserError, match=message):
        recipes.canonical(tiny.replace(config(), section, **fields))


def test_another_architecture_is_rejected_by_name(small, tmp_path):
    chosen = tiny.replace(finetune_config(small), "model", width=0.5)
    with pytest.raises(UserError, match=r"model\.width is 0\.5"):
        finetune(small, tmp_path, config=chosen)


def test_the_command_reports_a_missing_argument(capsys, tmp_path):
    assert cli.main(["finetune"]) == 2
    assert "name the run first" in capsys.readouterr().err
    assert cli.main(["finetune", str(tmp_path), "--workdir", str(tmp_path / "x")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert pathlib.Path(tmp_path / "x").exists() is False
