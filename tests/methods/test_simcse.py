"""SimCSE: dropout masks of the two views, and the loss in one direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.experiment.builders import make_method
from cssl_jax.methods.base import Context
from cssl_jax.runtime.spmd import make_mesh
from helpers import tiny

TEXTS, STEPS = 6, 7


def method(encoder="bert_tiny", **options):
    changed = recipes.with_method(recipes.with_modality(tiny.config(), "text"), "simcse")
    changed = tiny.replace(changed, "model", encoder=encoder, width=0.125)
    changed = tiny.replace(changed, "data", vocabulary=300)
    changed = tiny.replace(changed, "method", **options)
    return make_method(changed, make_mesh(jax.devices()[:1]))


def batch():
    rng = np.random.default_rng(0)
    tokens = np.repeat(rng.integers(4, 300, (TEXTS, 1, STEPS)), 2, axis=1)
    views = {"tokens": tokens, "length": np.full((TEXTS, 2), STEPS, np.int32)}
    keys = rng.integers(0, 2**32, (TEXTS, 2), np.uint32)
    return {"views": {"main": views}, "key": keys}


def projections(**options):
    """Projections [n, 2, d] of two views with the same tokens."""
    made, given = method(**options), batch()

    @jax.jit
    def compute(given):
        params, state = made.init(jax.random.key(0), {"views": given["views"]})
        ctx = Context(step=jnp.zeros((), jnp.int32), total_steps=1, axis_name=None)
        return made.encode(params, state, {}, given, ctx)[0]

    return jax.device_get(compute(given))


@pytest.mark.parametrize("head", ["tanh", pytest.param("none", marks=pytest.mark.slow)])
def test_views_of_a_text_differ_by_their_dropout_masks_alone(head):
    two = projections(masks="two", dropout=0.3, head=head)
    same = projections(masks="same", dropout=0.3, head=head)
    assert np.abs(two[:, 0] - two[:, 1]).max(axis=1).min() > 1e-2
    np.testing.assert_allclose(same[:, 0], same[:, 1], atol=1e-6)
    np.testing.assert_allclose(same[:, 0], two[:, 0], atol=1e-6)  # that of the first view
    assert np.abs(two).max() < 1 or head == "none"  # the range of tanh


def test_the_loss_is_infonce_in_one_direction():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(TEXTS, 2, 5))
    ctx = Context(step=jnp.zeros((), jnp.int32), total_steps=1, axis_name=None)
    loss, metrics, _ = method(temperature=0.2).objective({}, {}, jnp.asarray(z), {}, ctx)
    unit = z / np.linalg.norm(z, axis=2, keepdims=True)
    logits = unit[:, 0] @ unit[:, 1].T / 0.2
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    right = np.mean(logits.argmax(axis=1) == np.arange(TEXTS))
    assert float(metrics["contrastive_accuracy"]) == pytest.approx(right)


def test_an_encoder_without_dropout_is_refused():
    with pytest.raises(UserError, match="has no dropout"):
        method("resnet1d")
