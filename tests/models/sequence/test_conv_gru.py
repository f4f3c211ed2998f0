"""The encoder of CPC against loops over sequences without padding."""

import numpy as np

from helpers.sequences import assert_tokens, convolution, gru_states, run_float64

EXACT = 1e-9  # both sides compute in float64


def layer_norm(x, parameters):
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * parameters["scale"] + parameters["bias"]


def test_outputs_are_those_of_the_layers_one_after_another():
    rows, variables, outputs, _ = run_float64("conv_gru")
    params = variables["params"]
    latents, contexts = [], []
    for row in rows:
        for block in ("block1", "block2"):
            row = convolution(row, params[block]["conv"], stride=2)
            row = np.maximum(layer_norm(row, params[block]["norm"]), 0)
        latents.append(row)
        contexts.append(gru_states(row, params["context"]))
    assert outputs["steps"].tolist() == [len(row) for row in latents]
    assert_tokens(outputs["latents"], latents, EXACT)
    assert_tokens(outputs["contexts"], contexts, EXACT)
    for features, states in zip(outputs["features"], contexts, strict=True):
        np.testing.assert_allclose(features, states.mean(axis=0), atol=EXACT)
