"""CORAL and DANN as methods: what their gradient is made of, and on how many devices."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.methods.base import Context
from cssl_jax.methods.supervised import coral as coral_module
from cssl_jax.methods.supervised.coral import DeepCORAL
from cssl_jax.methods.supervised.dann import DANN, DomainClassifier, reversal, reverse_gradient
from cssl_jax.runtime import spmd
from helpers import tiny

CLASSES = 3
BOUND = 1e-5  # of the tree's largest gradient; docs/architecture.md, rule 1


def config(name, **adapt):
    changed = recipes.with_method(tiny.config(), name)
    changed = tiny.replace(changed, "optimizer", name="sgd", learning_rate=0.1)
    changed = tiny.replace(changed, "adapt", target="elsewhere", **adapt)
    return tiny.replace(changed, "classifier", num_classes=CLASSES)


def inverted(labels=None):
    source = tiny.image_source(40, seed=1)
    return dataclasses.replace(source, examples={"image": 255 - source.images}, labels=labels)


class Pairs(tiny.Run):
    def __init__(self, config, devices=1, target=None):
        super().__init__(config, devices, target=target or inverted())

    def placed(self):
        """A state in the middle of the run, whose classifier is not at zero."""
        state = self.state()
        kernel = state.params["classifier"]["kernel"]
        noise = jax.random.normal(jax.random.key(1), kernel.shape)
        classifier = {**state.params["classifier"], "kernel": noise}
        step = np.int32(self.total_steps // 2)
        params = {**state.params, "classifier": classifier}
        return spmd.replicate(jax.device_get(state.replace(params=params, step=step)), self.mesh)

    def gradients(self):
        spread = self.spread(self.gradient())
        host_batch = next(self.host_batches(0, 1))
        grads, outputs = jax.device_get(spread(self.placed(), self.constants, host_batch))
        return grads, outputs.metrics


def difference(tree, reference):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (tree, reference))
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.fixture(scope="module")
def one_device():
    return {name: Pairs(config(name)).gradients() for name in ("coral", "dann")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coral", "dann"])
def test_raw_gradients_do_not_depend_on_devices(one_device, name):
    grads, metrics = Pairs(config(name), 8).gradients()
    reference, metrics = one_device[name]
    assert difference(grads, reference) <= BOUND
    for key, value in metrics.items():
        assert metrics[key] == pytest.approx(value, rel=1e-5), key
    if name == "dann":
        # Each part by itself: the domain classifier's gradient is small beside the rest.
        assert difference(grads["domain"], reference["domain"]) <= BOUND


@pytest.mark.slow
def test_covariances_of_what_a_device_holds_are_caught(one_device, monkeypatch):
    whole = coral_module.coral
    monkeypatch.setattr(coral_module, "coral", lambda s, t, axis_name: whole(s, t))
    grads, _ = Pairs(config("coral"), 4).gradients()
    assert difference(grads, one_device["coral"][0]) > 0.01


def test_a_reversed_gradient_is_exactly_minus_lambda_times_it():
    x = np.float32(np.random.default_rng(0).normal(size=(4, 3)))
    weights = np.float32(np.random.default_rng(1).normal(size=(4, 3)))
    scale = jnp.float32(0.375)  # a product with it is exact
    value, grad = jax.value_and_grad(lambda x: jnp.sum(reverse_gradient(x, scale) * weights))(x)
    assert value == jnp.sum(x * weights)
    np.testing.assert_array_equal(grad, -0.375 * weights)


def test_lambda_follows_the_papers_schedule():
    for step in (0, 17, 50, 100):
        expected = 2 / (1 + math.exp(-10 * step / 100)) - 1
        assert float(reversal(np.int32(step), 100)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_features_get_the_domain_loss_reversed_and_its_classifier_does_not():
    method = DANN(None, None, CLASSES, weight=0.5, domain=DomainClassifier(hidden=4))
    rng = np.random.default_rng(0)
    features = np.float32(rng.normal(size=(6, 2, 5)))
    domain = method.domain.init(jax.random.key(0), features)["params"]
    ctx = Context(np.int32(30), 100, None)

    def loss(params, features):
        return method.alignment({"domain": params}, features, ctx)[0]

    def plain(params, features):
        """Cross entropy of the domains, in float64 and without reversal."""
        x = features
        for name in ("dense1", "dense2"):
            x = jnp.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        logits = (x @ params["dense3"]["kernel"] + params["dense3"]["bias"])[..., 0]
        return jnp.mean(jnp.log1p(jnp.exp(logits * jnp.array([1.0, -1.0]))))

    assert float(loss(domain, features)) == pytest.approx(float(plain(domain, features)), rel=1e-5)
    ours = jax.grad(loss, argnums=(0, 1))(domain, features)
    theirs = jax.grad(plain, argnums=(0, 1))(domain, features)
    chex.assert_trees_all_close(ours[0], theirs[0], rtol=1e-7, atol=1e-7)
    factor = -0.5 * (2 / (1 + math.exp(-3)) - 1)
    np.testing.assert_allclose(ours[1], factor * theirs[1], atol=1e-7)


@pytest.mark.parametrize("layer", ["logits", "features"])
def test_the_coral_objective_is_both_losses_by_numpy(layer):
    method = DeepCORAL(None, None, CLASSES, weight=2.0, layer=layer)
    rng = np.random.default_rng(0)
    features = np.float32(rng.normal(size=(8, 2, 5)))
    kernel, bias = rng.normal(size=(5, CLASSES)), rng.normal(size=CLASSES)
    params = {"classifier": {"kernel": np.float32(kernel), "bias": np.float32(bias)}}
    labels = rng.integers(0, CLASSES, 8)
    logits = features @ kernel + bias
    outputs = {"logits": np.float32(logits[:, 0]), "features": features}
    ctx = Context(np.int32(0), 1, None)
    loss, metrics, _ = method.objective(params, {}, outputs, {"label": labels}, ctx)
    entropy = -np.mean(scipy.special.log_softmax(logits[:, 0], axis=1)[np.arange(8), labels])
    seen = logits if layer == "logits" else features
    apart = np.cov(seen[:, 0], rowvar=False) - np.cov(seen[:, 1], rowvar=False)
    distance = np.sum(apart**2) / (4 * seen.shape[-1] ** 2)
    assert float(metrics["coral"]) == pytest.approx(distance, rel=1e-4)
    assert float(loss) == pytest.approx(entropy + 2 * distance, rel=1e-4)


@pytest.mark.slow
def test_target_labels_are_not_trained_on_and_target_images_are(one_device):
    plain, _ = one_device["dann"]
    labelled, _ = Pairs(config("dann"), target=inverted(labels=np.arange(40) % CLASSES)).gradients()
    jax.tree.map(np.testing.assert_array_equal, plain, labelled)
    other = dataclasses.replace(inverted(), examples={"image": inverted().images[::-1]})
    changed, _ = Pairs(config("dann"), target=other).gradients()
    assert difference(changed["encoder"], plain["encoder"]) > 0.01


@pytest.mark.slow
def test_targets_are_drawn_in_epochs_of_their_own_from_keys_of_their_own():
    run = Pairs(config("coral"))
    make = jax.jit(run.pipeline.make_batch)
    batches = [
        make(np.int32(step), run.pipeline.constants, host_batch)
        for step, host_batch in enumerate(run.pipeline.host_batches(0, 4))
    ]
    drawn = np.concatenate([batch["target_index"] for batch in batches])
    for epoch in (drawn[:32], drawn[32:]):  # two batches of 16 from 40 images
        assert len(set(epoch.tolist())) == 32
    assert set(batches[0]) == {"views", "index", "key", "label", "mask", "target_index"}
    assert batches[0]["views"]["target"].shape == batches[0]["views"]["main"].shape
    # Beside other images no image of the same number has the same draws.
    pairs = Pairs(config("coral"), target=tiny.image_source())
    batch = jax.jit(pairs.pipeline.make_batch)(
        np.int32(0), pairs.pipeline.constants, next(pairs.pipeline.host_batches(0, 1))
    )
    assert not np.array_equal(batch["index"], batch["target_index"])


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("adapt", {"target": ""}, "adapt.target empty"),
        ("classifier", {"stages": 0}, "leaves the encoder as it is"),
        ("adapt", {"coral_weight": -1.0}, r"adapt\.coral_weight is -1\.0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(section, fields, words):
    with pytest.raises(UserError, match=words):
        recipes.canonical(tiny.replace(config("dann"), section, **fields))


def test_targets_that_do_not_fit_are_refused_by_name():
    with pytest.raises(UserError, match="batch 16 does not fit the 9 target images"):
        Pairs(config("coral"), target=tiny.image_source(9))
    with pytest.raises(UserError, match=r"data\.source: images have 3 channels; .* takes 1"):
        Pairs(config("coral"), target=tiny.image_source(channels=3))
