"""The Transformer against attention by hand over sequences that have no padding."""

import jax
import numpy as np
import pytest

from cssl_jax.models.sequence import Transformer
from cssl_jax.models.sequence.transformer import HEAD, sinusoids
from helpers import sequences
from helpers.sequences import dense, gelu, run_float64

EXACT = 1e-9  # both sides compute in float64


def layer_norm(x, params):
    centred = x - x.mean(axis=1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    return normalised * params["scale"] + params["bias"]


def attention(x, params, heads):
    d, outputs = x.shape[1], []
    projected = dense(x, params["qkv"])
    for head in range(heads):
        columns = slice(HEAD * head, HEAD * (head + 1))
        query, key, value = (projected[:, i * d : (i + 1) * d][:, columns] for i in range(3))
        scores = np.exp(query @ key.T / np.sqrt(HEAD))
        outputs.append(scores / scores.sum(axis=1, keepdims=True) @ value)
    return dense(np.concatenate(outputs, axis=1), params["out"])


def encode(row, params, heads):
    positions = [
        [
            fn(t / 10_000 ** (2 * i / (HEAD * heads)))
            for fn in (np.sin, np.cos)
            for i in range(16 * heads)
        ]
        for t in range(len(row))
    ]
    x = dense(row, params["input"]) + np.array(positions)
    for i in (1, 2):
        block = params[f"block{i}"]
        x = x + attention(layer_norm(x, block["norm1"]), block, heads)
        x = x + dense(gelu(dense(layer_norm(x, block["norm2"]), block["mlp1"])), block["mlp2"])
    return layer_norm(x, params["norm"])


def test_tokens_and_features_are_those_of_attention_by_hand():
    rows, variables, outputs, _ = run_float64("transformer")
    expected = [encode(row, variables["params"], heads=2) for row in rows]
    sequences.assert_tokens(outputs["tokens"], expected, EXACT)
    features = [tokens.mean(axis=0) for tokens in expected]
    np.testing.assert_allclose(outputs["features"], features, atol=EXACT)


def test_position_codes_differ_and_do_not_depend_on_the_number_of_steps():
    codes = sinusoids(500, 64)
    np.testing.assert_array_equal(sinusoids(20, 64), codes[:20])
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    assert distances[~np.eye(500, dtype=bool)].min() > 0.5


def test_an_omitted_step_has_no_influence_and_the_others_keep_their_positions():
    encoder, x = sequences.SMALL["transformer"], sequences.inputs((13, 9))
    keep = np.ones((2, 13), bool)
    keep[:, 3] = False
    changed = {**x, "values": x["values"].copy()}
    changed["values"][:, 3] = 9.0
    variables = sequences.variables(encoder)
    found, other, full = (
        sequences.run(encoder, variables, given, keep=kept)[0]
        for given, kept in ((x, keep), (changed, keep), (x, None))
    )
    np.testing.assert_array_equal(found["features"], other["features"])
    np.testing.assert_array_equal(found["tokens"][:, 3], 0)
    assert np.abs(found["features"] - full["features"]).max() > 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_rate_of_drop_path_grows_linearly_over_the_blocks(monkeypatch, rate):
    seen = []

    def record(module, x, keys, *, train):
        seen.append(module.rate)
        return x

    monkeypatch.setattr("cssl_jax.models.attention.DropPath.__call__", record)
    encoder = Transformer(width=0.25, layers=3, drop_path=rate)
    jax.eval_shape(lambda: encoder.init(jax.random.key(0), sequences.inputs()))
    assert seen == pytest.approx([0, 0, rate / 2, rate / 2, rate, rate])
