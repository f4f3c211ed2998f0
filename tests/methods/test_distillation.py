"""Distillation: its loss by NumPy, a frozen teacher, the same run on any devices, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.methods.base import Context
from cssl_jax.methods.supervised.classifier import Classifier
from cssl_jax.methods.supervised.distillation import Distillation
from cssl_jax.models.registry import build_encoder
from helpers import tiny
from helpers.comparison import run_differences
from helpers.stops import CrashError, crash_after

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
CLASSES = 3
FAST = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.2,
    "optimizer.scaling": "none",
    "optimizer.warmup_epochs": 0.0,
    "optimizer.trust_clip": False,
}


def classifier_config(source, **values):
    base = recipes.with_method(tiny.config(epochs=5), "classifier")
    return base.replace(
        {**FAST, "data.source": source, "classifier.num_classes": CLASSES, **values}
    )


def distillation_config(source, teacher, **values):
    base = recipes.with_method(tiny.config(epochs=5, checkpoint_steps=2), "distillation")
    options = {
        **FAST,
        "data.source": source,
        "classifier.num_classes": CLASSES,
        "method.teacher": str(teacher),
        "model.encoder": "linear",
    }
    return base.replace({**options, **values})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images = tiny.image_source(60)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=images.images, labels=images.labels)
    return str(path)


@pytest.fixture(scope="module")
def teacher(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "run"
    cssl_jax.pretrain(classifier_config(source), run)
    return run


@pytest.fixture(scope="module")
def student(source, teacher, tmp_path_factory):
    run = tmp_path_factory.mktemp("student") / "run"
    cssl_jax.pretrain(distillation_config(source, teacher), run)
    return run


def method(temperature=1.0, teacher=None):
    encoder = build_encoder("linear")
    return Distillation(encoder, None, CLASSES, teacher=teacher, temperature=temperature)


def loss_of(ours, theirs, temperature):
    found = method(temperature).objective({}, {}, ours, {"targets": theirs}, context())
    return found[0], found[1]


def context():
    return Context(jnp.int32(0), 10, None)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_loss_and_gradient_are_those_of_float64_loops(temperature):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 6, CLASSES))
    expected, gradient, entropy = 0.0, np.zeros_like(ours), 0.0
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        p = [np.exp(x / temperature) for x in t]
        q = [np.exp(x / temperature) for x in s]
        p, q = np.array(p) / sum(p), np.array(q) / sum(q)
        for c in range(CLASSES):
            expected -= p[c] * np.log(q[c]) / 6
            entropy -= p[c] * np.log(p[c]) / 6
            gradient[i, c] = (q[c] - p[c]) / temperature / 6
    with jax.enable_x64(True):
        found = jax.jit(jax.value_and_grad(loss_of, has_aux=True), static_argnums=2)
        (loss, metrics), ours_gradient = found(jnp.asarray(ours), jnp.asarray(theirs), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert float(metrics["teacher_entropy"]) == pytest.approx(entropy, rel=1e-12)
    np.testing.assert_allclose(ours_gradient, gradient, rtol=0, atol=1e-12)
    agreement = np.mean(np.argmax(ours, 1) == np.argmax(theirs, 1))
    assert float(metrics["agreement"]) == agreement


def test_the_teachers_logits_are_its_predictions_of_the_same_view():
    encoder = build_encoder("linear")
    trained = Classifier(encoder, None, CLASSES)
    views = jax.random.normal(jax.random.key(0), (4, 1, 8, 8, 1))
    batch = {"views": {"main": views}, "key": jnp.zeros((4, 2), jnp.uint32)}
    params, state = trained.init(jax.random.key(1), batch)
    params["classifier"]["kernel"] = jax.random.normal(jax.random.key(2), (12, CLASSES))
    variables = {"params": params, "model_state": state}
    targets, _ = method(teacher=trained).targets({}, {}, {"teacher": variables}, batch, context())
    # The linear encoder: dense layer, normalisation by mean 0 and variance 1, ReLU.
    x = np.asarray(views, np.float64).reshape(4, -1)
    dense, norm = params["encoder"]["dense"], params["encoder"]["norm"]
    x = (x @ dense["kernel"] + dense["bias"]) / np.sqrt(1 + 1e-5) * norm["scale"] + norm["bias"]
    expected = np.maximum(x, 0) @ params["classifier"]["kernel"]
    np.testing.assert_allclose(targets, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_run_learns_from_its_teacher_without_labels(student, teacher):
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "agreement" in line]
    assert all(line["loss"] >= line["teacher_entropy"] - 1e-6 for line in steps)
    assert steps[-1]["loss"] - steps[-1]["teacher_entropy"] < (
        steps[0]["loss"] - steps[0]["teacher_entropy"]
    )
    results = json.loads((student / "results.json").read_text())
    assert results["classifier"]["top1"] > 0.6  # a third by chance
    encoder = cssl_jax.load_encoder(student)
    assert encoder.meta["teacher"]["run"] == str(teacher)
    assert encoder(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 12)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits_and_the_same_teacher(
    source, teacher, student, tmp_path
):
    config = distillation_config(source, teacher)
    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(3)])
    cssl_jax.pretrain(config, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (student / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "backend"), [(4, "shard_map"), (8, "shard_map"), (2, "pmap")])
def test_float64_training_does_not_depend_on_the_number_of_devices(
    source, teacher, devices, backend
):
    config = distillation_config(source, teacher)
    with jax.enable_x64(True):
        found = tiny.Run(config, devices, backend).train(5, np.float64)
        one = tiny.Run(config).train(5, np.float64)
    differences = run_differences(found, one)
    assert max(differences.values()) < FLOAT64_BOUND, differences


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method.teacher": ""}, "method.teacher empty; give the run folder of a classifier"),
        ({"classifier.num_classes": 4}, "3 classes; give --classifier.num-classes 3"),
        ({"data.size": 10}, "was trained on other inputs: size 8, here 10"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(source, teacher, tmp_path, values, message):
    config = distillation_config(source, teacher, **values)
    with pytest.raises(UserError, match=message):
        cssl_jax.pretrain(config, tmp_path / "run")
