"""COLA against a float64 loop, on one and several devices, on images and on recordings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.methods import cola
from cssl_jax.methods.base import Context
from cssl_jax.methods.cola import COLA
from cssl_jax.selfcheck.short_run import compare
from helpers import method_cases, recordings, tiny  # noqa: F401  method_cases registers an encoder

SMALL = {"method.name": "cola", "model.projector_dim": 6, "model.encoder": "linear"}


def by_hand(outputs, kernel):
    total = 0.0
    for i, (query, _) in enumerate(outputs):
        scores = [query @ kernel @ key for _, key in outputs]
        total += np.log(np.sum(np.exp(scores))) - scores[i]
    return total / len(outputs)


def test_the_loss_is_the_cross_entropy_of_a_bilinear_similarity():
    rng = np.random.default_rng(0)
    outputs, kernel = rng.normal(size=(12, 2, 6)), rng.normal(size=(6, 6))
    with jax.enable_x64(True):
        context = Context(jnp.int32(0), 10, None)
        params = {"similarity": {"kernel": jnp.asarray(kernel)}}
        made = COLA(None, None).objective(params, {}, jnp.asarray(outputs), {}, context)
    assert float(made[0]) == pytest.approx(by_hand(outputs, kernel), rel=1e-12)
    scores = outputs[:, 0] @ kernel @ outputs[:, 1].T
    expected = np.mean(scores.argmax(axis=1) == np.arange(12))
    assert float(made[1]["contrastive_accuracy"]) == pytest.approx(expected)


def test_projections_are_the_tanh_of_standardised_rows():
    x = np.random.default_rng(1).normal(2, 3, (5, 2, 64))
    expected = np.tanh((x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True))
    np.testing.assert_allclose(jnp.tanh(cola._standardised(jnp.asarray(x))), expected, atol=1e-5)


def outcome(devices, source=None, **values):
    config = recipes.override(tiny.config(), {**SMALL, **values})
    with jax.enable_x64(True):
        return tiny.Run(config, devices, source=source).run(5, np.float64)


@pytest.mark.slow
def test_float64_training_does_not_depend_on_the_number_of_devices(monkeypatch):
    one, four = outcome(1), outcome(4)
    assert max(compare(four, one)._replace(scale=0.0)) < 1e-9  # docs/architecture.md, rule 1
    monkeypatch.setattr(cola, "gather", lambda x, axis_name: x)
    monkeypatch.setattr(cola, "first_row", lambda rows, axis_name: 0)
    assert compare(outcome(4), one).loss > 1e-3  # candidates of one device only


@pytest.mark.slow
def test_recordings_train_with_the_method():
    config = recipes.with_modality(tiny.config(), "audio")
    config = recipes.override(
        recipes.with_method(config, "cola"),
        {
            "data.rate": recordings.RATE,
            "data.mels": 12,
            "data.seconds": 0.15,
            "model.encoder": "gru",
            "model.width": 0.125,
            # The random bilinear map begins with logits of about 10, far above log 16: a larger
            # step would only add to them.
            "optimizer.name": "adam",
            "optimizer.learning_rate": 3e-4,
            "optimizer.scaling": "none",
            "optimizer.warmup_epochs": 0.0,
            "train.epochs": 40,
        },
    )
    losses, _ = tiny.Run(config, 2, source=recordings.source()).train(60)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
