"""The call of a module by a method: optional arguments reach only modules that are given them."""

import flax.linen as nn
import numpy as np
import pytest

from cssl_jax.methods.base import run_module
from cssl_jax.models.dropout import Dropout
from cssl_jax.models.normalization import BatchNorm


class Masked(nn.Module):
    """An encoder of steps with dropout, a mask and BatchNorm over the kept steps."""

    @nn.compact
    def __call__(self, x, train=False, keys=None, keep=None):
        x = BatchNorm(name="bn")(x, train=train, mask=keep)
        tokens = Dropout(0.5, 0)(x, keys, train=train)
        return {"features": tokens.mean(axis=1), "tokens": tokens}


def test_keys_and_a_mask_reach_the_encoder_and_no_other_module():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 2)).astype(np.float32)
    keys = rng.integers(0, 2**32, (4, 2), dtype=np.uint32)
    keep = np.arange(3) < np.array([[3], [1], [2], [3]])
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    params = {"encoder": {"bn": {"scale": ones, "bias": zeros}}, "head": {}}
    state = {"encoder": {"bn": {"mean": zeros, "var": ones}}, "head": {}}
    encoded, updated = run_module(Masked(), "encoder", params, state, x, True, keys=keys, keep=keep)
    dropped = np.asarray(encoded["tokens"]) == 0
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_allclose(updated["bn"]["mean"], 0.1 * x[keep].mean(axis=0), rtol=1e-5)
    # Without keys, the encoder's dropout is missing what it needs: they are not optional for it.
    with pytest.raises(ValueError, match="Dropout needs a key per row"):
        run_module(Masked(), "encoder", params, state, x, True, keep=keep)
    head = Plain()
    np.testing.assert_array_equal(run_module(head, "head", params, state, x, True)[0], 2 * x)


class Plain(nn.Module):
    """A head, which has neither keys nor a mask."""

    def __call__(self, x, train=False):
        return 2 * x
