"""Dilated convolutions against explicit sums over sequences that have no padding."""

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.models.sequence import DilatedConvolutions
from helpers import sequences
from helpers.sequences import convolution, dense, gelu, run_float64


def test_tokens_and_features_are_those_of_explicit_sums():
    rows, variables, outputs, _ = run_float64("dilated")
    params, y = variables["params"], []
    for row in rows:
        x = dense(row, params["input"])
        for i in range(3):
            block = params[f"block{i + 1}"]
            branch = convolution(gelu(x), block["conv1"], dilation=2**i)
            branch = convolution(gelu(branch), block["conv2"], dilation=2**i)
            x = branch + (dense(x, block["shortcut"]) if i == 2 else x)
        y.append(x)
    assert y[0].shape[1] == 20  # 320 width
    # float64 on both sides, over 8 layers.
    sequences.assert_tokens(outputs["tokens"], y, 1e-9)
    np.testing.assert_allclose(outputs["features"], [x.max(axis=0) for x in y], atol=1e-9)


def test_the_receptive_field_is_the_stated_one():
    encoder = DilatedConvolutions(width=1 / 64, depth=1, dropout=0.0)
    field, steps = 1 + 4 * (2**2 - 1), 41
    variables = sequences.variables(encoder, channels=1)
    x = {"values": np.ones((1, steps, 1), np.float32), "length": np.array([steps], np.int32)}

    def centre(values):
        return encoder.apply(variables, {**x, "values": values})["tokens"][0, steps // 2].sum()

    (seen,) = np.nonzero(np.asarray(jax.jit(jax.grad(centre))(jnp.asarray(x["values"])))[0, :, 0])
    assert seen.max() - seen.min() + 1 == field
    assert (seen.max() + seen.min()) / 2 == steps // 2


def test_an_omitted_step_has_a_token_that_its_own_value_does_not_enter():
    encoder, x = sequences.SMALL["dilated"], sequences.inputs((13, 8))
    keep = np.ones((2, 13), bool)
    keep[:, 4] = False
    changed = {**x, "values": x["values"].copy()}
    changed["values"][:, 4] = 9.0
    variables = sequences.variables(encoder)
    outputs = [sequences.run(encoder, variables, given, keep=keep)[0] for given in (x, changed)]
    np.testing.assert_array_equal(outputs[0]["tokens"], outputs[1]["tokens"])
    assert np.abs(outputs[0]["tokens"][:, 4]).max() > 0.1
