"""SimCSE: dropout masks of the two views, the loss in one direction, and pairs of texts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.augment.text.policy import TextPolicy
from cssl_jax.augment.view_group import number_groups
from cssl_jax.config import TextData
from cssl_jax.data.sampler import example_key
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.text import open_text, text_examples
from cssl_jax.data.text import tokenizer
from cssl_jax.errors import UserError
from cssl_jax.evaluate.leakage import find_leakage
from cssl_jax.experiment.builders import make_method
from cssl_jax.experiment.data_splits import load_data
from cssl_jax.methods.base import Context
from cssl_jax.modalities import text
from cssl_jax.runtime.spmd import make_mesh
from cssl_jax.selfcheck.short_run import compare
from helpers import losses_numpy, sentences, tiny

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


@pytest.mark.slow
@pytest.mark.parametrize("head", ["tanh", "none"])
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


# ------------------------------------------------------------------------------- pairs of texts


PAIRS = [
    ("a dog eats", "the dog is eating", "a dog sleeps"),
    ("a man rides", "a man on a horse", "the man walks"),
    ("she sings", "a woman sings", "she is silent"),
    ("it rains", "the rain falls", "the sun shines"),
]


@pytest.fixture
def table(tmp_path):
    rows = [("anchor", "positive", "negative"), *PAIRS, ("", "left out", "left out")]
    (tmp_path / "pairs.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return tmp_path / "pairs.csv"


def test_the_views_are_the_text_its_positive_and_its_hard_negative(table):
    source = open_text(table)
    spec = text.input_spec(TextData(length=24, vocabulary=300), source)
    arrays = text.to_arrays(source, spec)
    keys = example_key(0, 0, np.arange(len(source)))
    groups = number_groups(method(hard_negatives=True).views, size=spec.size, policy=TextPolicy())
    found = []
    for group in groups.values():
        drawn = text.sample_views(keys, group.policy, group.count, group.first)
        views = jax.device_get(
            jax.jit(partial(text.apply_views, group=group, spec=spec))(arrays.examples, drawn)
        )
        for k in range(group.count):
            found.append(
                tokenizer.detokenize(spec.tokenizer, views["tokens"][:, k], views["length"][:, k])
            )
    assert [tuple(row) for row in zip(*found, strict=True)] == PAIRS
    assert text.prepare(arrays.examples, spec).keys() == {"tokens", "length"}
    assert any("1 rows with an empty text are omitted" in note for note in source.notes)


def test_the_loss_with_hard_negatives_is_that_of_the_paper():
    z = np.random.default_rng(2).normal(size=(TEXTS, 3, 5))
    ctx = Context(step=jnp.zeros((), jnp.int32), total_steps=1, axis_name=None)
    made = method(temperature=0.2, hard_negatives=True)
    loss, _, _ = made.objective({}, {}, jnp.asarray(z), {}, ctx)
    expected = losses_numpy.supervised_simcse(z[:, 0], z[:, 1], z[:, 2], 0.2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_source_without_negatives_is_refused(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    changed = recipes.with_method(recipes.with_modality(tiny.config(), "text"), "simcse")
    changed = changed.replace(
        {"method.hard_negatives": True, "data.source": str(tmp_path / "texts.txt")}
    )
    with pytest.raises(UserError, match="needs examples with 'positive'"):
        load_data(changed)


def test_a_test_text_among_the_negatives_is_leakage(table):
    train = open_text(table)
    test = ArraySource("test", text_examples(["the man walks", "something else"]))
    found = find_leakage(train, test, "training texts", text.TEXT)
    assert (found.exact, found.pairs[0]["train"]) == (1, "text 1")


def pair_run(devices):
    changed = recipes.with_method(recipes.with_modality(tiny.config(), "text"), "simcse")
    changed = tiny.replace(changed, "data", vocabulary=300, length=12)
    changed = tiny.replace(changed, "model", encoder="bert_tiny", width=0.125)
    changed = tiny.replace(changed, "method", hard_negatives=True)
    texts = sentences.source(60).examples["text"]
    examples = {"text": texts, "positive": np.roll(texts, 3), "negative": np.roll(texts, 1)}
    with jax.enable_x64(True):
        return tiny.Run(changed, devices, source=ArraySource("pairs", examples)).run(5, np.float64)


@pytest.mark.slow
def test_float64_training_on_pairs_does_not_depend_on_the_number_of_devices():
    one, four = pair_run(1), pair_run(4)
    assert max(compare(four, one)._replace(scale=0.0)) < 1e-9  # docs/architecture.md, rule 1
