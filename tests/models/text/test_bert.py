"""The BERT encoder: its definition in float64 loops, masks, keys and sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.models.registry import build_encoder, encoders_for
from cssl_jax.models.text.bert import EPSILON, Bert

SMALL = Bert(layers=2, hidden=12, heads=3, inner=20, vocabulary=30, dropout=0.25)
ROWS, STEPS = 4, 9


def inputs(steps=STEPS, padding=0):
    rng = np.random.default_rng(0)
    length = np.array([STEPS, 5, 2, 1], np.int32)
    tokens = np.full((ROWS, steps), padding, np.int32)
    tokens[:, :STEPS] = rng.integers(1, 30, (ROWS, STEPS))
    tokens[np.arange(steps) >= length[:, None]] = padding
    return {"tokens": tokens, "length": length}


@functools.cache
def params():
    """Parameters with effects of their own: biases are no zeros, scales no ones."""
    made = SMALL.init(jax.random.key(0), inputs())["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.asarray(x + 0.3 * rng.normal(size=x.shape), x.dtype), made)


def features(x, **options):
    return jax.device_get(jax.jit(lambda p: SMALL.apply({"params": p}, x, **options))(params()))


def expected(tokens):
    """Token features [T, d] of one text without padding, by loops in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params())

    def norm(x, at):
        deviation = x - x.mean(-1, keepdims=True)
        scaled = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + EPSILON)
        return scaled * at["scale"] + at["bias"]

    def dense(x, at):
        return x @ at["kernel"] + at["bias"]

    x = np.stack(
        [
            p["word"]["embedding"][token]
            + p["position"]["embedding"][t]
            + p["type"]["embedding"][0]
            for t, token in enumerate(tokens)
        ]
    )
    x = norm(x, p["norm"])
    for i in (1, 2):
        at = p[f"block{i}"]
        query, key, value = (dense(x, at[name]) for name in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for t in range(len(x)):
                weights = np.exp(key[:, part] @ query[t, part] / 2)
                mixed[t, part] = weights / weights.sum() @ value[:, part]
        x = norm(x + dense(mixed, at["out"]), at["norm1"])
        inner = dense(x, at["mlp1"])
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + dense(inner, at["mlp2"]), at["norm2"])
    return x


def test_features_are_those_of_the_definition():
    given, found = inputs(), features(inputs())
    for row, length in enumerate(given["length"]):
        tokens = expected(given["tokens"][row, :length])
        # float32 through two blocks
        np.testing.assert_allclose(found["tokens"][row, :length], tokens, atol=2e-5)
        np.testing.assert_allclose(found["features"][row], tokens.mean(axis=0), atol=2e-5)
        assert not found["tokens"][row, length:].any()


@pytest.mark.parametrize("train", [False, True])
def test_padding_has_no_influence(train):
    """The tolerance is float32 rounding of sums whose order depends on the shape."""
    keys = np.arange(2 * ROWS, dtype=np.uint32).reshape(ROWS, 2)
    short = features(inputs(), train=train, keys=keys)["features"]
    if train:  # the masks of dropout have the shape of the padded text
        other = features(inputs(padding=7), train=train, keys=keys)["features"]
    else:
        other = features(inputs(STEPS + 7, padding=7))["features"]
    np.testing.assert_allclose(short, other, atol=1e-6)


def test_padding_gets_no_gradient():
    given = inputs(padding=29)
    given["tokens"][given["tokens"] == 29] = 28
    given["tokens"][np.arange(STEPS) >= given["length"][:, None]] = 29

    def loss(p):
        return jnp.sum(jnp.sin(SMALL.apply({"params": p}, given)["features"]))

    gradient = jax.device_get(jax.jit(jax.grad(loss))(params()))
    assert not gradient["word"]["embedding"][29].any()
    assert not gradient["position"]["embedding"][STEPS:].any()
    assert gradient["word"]["embedding"][28].any() or gradient["position"]["embedding"][0].any()


def test_dropout_depends_on_the_key_of_the_row_alone():
    keys = np.arange(2 * ROWS, dtype=np.uint32).reshape(ROWS, 2)
    given = inputs()
    order = np.array([2, 0, 3, 1])
    shuffled = {name: value[order] for name, value in given.items()}
    one = features(given, train=True, keys=keys)["features"]
    other = features(shuffled, train=True, keys=keys[order])["features"]
    np.testing.assert_allclose(one[order], other, atol=1e-6)
    changed = keys.copy()
    changed[0] += 100
    third = features(given, train=True, keys=changed)["features"]
    assert np.abs(third[0] - one[0]).max() > 1e-2
    np.testing.assert_array_equal(third[1:], one[1:])


@pytest.mark.parametrize("name", encoders_for("text"))
def test_parameters_are_those_of_the_formula(name):
    encoder = build_encoder(name, vocabulary=1000)
    x = {"tokens": jnp.zeros((1, 8), jnp.int32), "length": jnp.full(1, 8)}
    made = jax.eval_shape(encoder.init, jax.random.key(0), x)["params"]
    d, m = encoder.hidden, encoder.inner
    block = 4 * d * d + 2 * d * m + 9 * d + m
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made))
    assert found == encoder.layers * block + (1000 + 516) * d
    assert {encoder.depth_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(made)} == set(
        range(encoder.layers + 1)
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 8, 8, 1)), "takes text"),
        ({"values": np.zeros((2, 8, 1))}, "takes text"),
        ({"tokens": np.zeros((1, 600), int), "length": np.ones(1, int)}, "512 positions"),
    ],
)
def test_other_inputs_are_refused(x, message):
    with pytest.raises(UserError, match=message):
        SMALL.apply({"params": params()}, x)
