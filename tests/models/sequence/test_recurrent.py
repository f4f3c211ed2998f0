"""GRU and LSTM against cells that run step by step over sequences without padding."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from cssl_jax.models.sequence.recurrent import RecurrentLayer
from helpers import sequences
from helpers.sequences import dense, gru_states, run_float64, sigmoid

EXACT = 1e-9  # both sides compute in float64


def lstm_states(row, params):
    """All states [length, H] of an LSTM layer: c' = f c + i g, h' = o tanh(c')."""
    h = c = np.zeros(len(params["recurrent_bias"]))
    states = []
    for x in row:
        i, f, g, o = np.split(dense(x, params["input"]) + h @ params["recurrent_kernel"], 4)
        c = sigmoid(f + params["recurrent_bias"]) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def expected(row, params, states, directions):
    """(outputs [length, D] of the last of two layers, features [D])."""
    for layer in (1, 2):
        forward = states(row, params[f"layer{layer}_forward"])
        outputs, last = [forward], [forward[-1]]
        if directions == 2:
            backward = states(row[::-1], params[f"layer{layer}_backward"])[::-1]
            outputs, last = [forward, backward], [forward[-1], backward[0]]
        row = np.concatenate(outputs, axis=1)
    return row, np.concatenate(last)


@pytest.mark.parametrize(
    ("name", "states", "directions"),
    [
        pytest.param("gru", gru_states, 1, marks=pytest.mark.slow),
        pytest.param("lstm", lstm_states, 1, marks=pytest.mark.slow),
        ("bigru", gru_states, 2),
        ("bilstm", lstm_states, 2),
    ],
)
def test_outputs_are_those_of_the_cell_step_by_step(name, states, directions):
    rows, variables, outputs, _ = run_float64(name)
    pairs = [expected(row, variables["params"], states, directions) for row in rows]
    sequences.assert_tokens(outputs["tokens"], [tokens for tokens, _ in pairs], EXACT)
    features = [last for _, last in pairs]
    np.testing.assert_allclose(outputs["features"], features, atol=EXACT)


def flax_parameters(cell, params):
    """Parameters of flax.linen's cell from those of a layer."""
    gates = {"gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}[cell]
    columns = {
        "input": np.split(params["input"]["kernel"], len(gates), axis=1),
        "bias": np.split(params["input"]["bias"], len(gates)),
        "recurrent": np.split(params["recurrent_kernel"], len(gates), axis=1),
    }
    converted = {}
    for i, gate in enumerate(gates):
        side = "i" if cell == "gru" else "h"  # where flax has the bias of a gate
        converted[f"i{gate}"] = {"kernel": columns["input"][i]}
        converted[f"h{gate}"] = {"kernel": columns["recurrent"][i]}
        converted[f"{side}{gate}"]["bias"] = columns["bias"][i]
    if cell == "gru":
        converted["hn"]["bias"] = params["recurrent_bias"]
    else:
        converted["hf"]["bias"] = columns["bias"][1] + params["recurrent_bias"]
    return converted


@pytest.mark.parametrize(("cell", "module"), [("gru", nn.GRUCell), ("lstm", nn.OptimizedLSTMCell)])
def test_a_layer_is_the_cell_of_flax(cell, module):
    x = sequences.inputs((13, 7), padding=0.0)
    mask = np.arange(13) < x["length"][:, None]
    layer, rng = RecurrentLayer(5, cell), np.random.default_rng(0)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x["values"], mask, False)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)["params"]
    with jax.enable_x64(True):
        values = x["values"].astype(np.float64)
        outputs, last = jax.jit(layer.apply, static_argnums=3)(
            {"params": params}, values, mask, False
        )
        rnn = nn.RNN(module(5, param_dtype=np.float64), return_carry=True)
        weights = {"params": {"cell": flax_parameters(cell, params)}}
        carry, theirs = jax.jit(rnn.apply)(weights, values, seq_lengths=x["length"])
    np.testing.assert_allclose(outputs, np.where(mask[..., None], theirs, 0), atol=EXACT)
    np.testing.assert_allclose(last, carry if cell == "gru" else carry[1], atol=EXACT)


def test_recurrent_kernels_are_orthogonal_and_the_forget_bias_is_1():
    x = sequences.inputs((13, 7), padding=0.0)["values"]
    layer = RecurrentLayer(5, "lstm")
    init = jax.jit(layer.init, static_argnums=3)
    params = init(jax.random.key(0), x, np.ones((2, 13), bool), False)["params"]
    for gate in np.split(np.asarray(params["recurrent_kernel"]), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(5), atol=1e-6)
    np.testing.assert_array_equal(params["recurrent_bias"], 1)


def test_an_omitted_step_is_skipped():
    encoder, x = sequences.SMALL["bilstm"], sequences.inputs((13, 9))
    keep = np.ones((2, 13), bool)
    keep[:, 3] = False
    without = {
        "values": np.delete(x["values"], 3, axis=1),
        "length": x["length"] - 1,
    }
    variables = sequences.variables(encoder)
    found, _ = sequences.run(encoder, variables, x, keep=keep)
    shorter, _ = sequences.run(encoder, variables, without)
    np.testing.assert_allclose(found["features"], shorter["features"], atol=1e-6)
    np.testing.assert_allclose(np.delete(found["tokens"], 3, 1), shorter["tokens"], atol=1e-6)
