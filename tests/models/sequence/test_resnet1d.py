"""The one-dimensional ResNet against explicit sums over sequences that have no padding."""

import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.models.sequence import ResNet1d
from helpers import sequences
from helpers.sequences import convolution, run_float64

EXACT = 1e-9  # both sides compute in float64, over 8 layers


class Oracle:
    """Layers on lists of arrays [length, C]; BatchNorm over the steps of all sequences."""

    def __init__(self, variables, train):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.train = train
        self.updated = {}

    def norm(self, rows, block, name):
        params, stats = self.params, self.stats
        if block:
            params, stats = params[block], stats[block]
        params, stats = params[name], stats[name]
        mean, var = stats["mean"], stats["var"]
        if self.train:
            steps = np.concatenate(rows)
            self.updated[block, name] = 0.9 * mean + 0.1 * steps.mean(axis=0)
            mean, var = steps.mean(axis=0), steps.var(axis=0)
        factor = params["scale"] / np.sqrt(var + 1e-5)
        return [(row - mean) * factor + params["bias"] for row in rows]

    def block(self, rows, name, stride):
        params = self.params[name]
        y = [convolution(row, params["conv1"], stride) for row in rows]
        y = [np.maximum(row, 0) for row in self.norm(y, name, "bn1")]
        y = self.norm([convolution(row, params["conv2"]) for row in y], name, "bn2")
        if "downsample_conv" in params:
            rows = [convolution(row, params["downsample_conv"], stride) for row in rows]
            rows = self.norm(rows, name, "downsample_bn")
        return [np.maximum(a + b, 0) for a, b in zip(y, rows, strict=True)]

    def encode(self, rows, stem):
        y = [convolution(row, self.params["conv1"], 2 if stem == "imagenet" else 1) for row in rows]
        y = [np.maximum(row, 0) for row in self.norm(y, None, "bn1")]
        if stem == "imagenet":
            y = [
                np.array([row[max(i - 1, 0) : i + 2].max(axis=0) for i in range(0, len(row), 2)])
                for row in y
            ]
        y = self.block(y, "layer1_0", 1)
        return y, self.block(y, "layer2_0", 2)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet1d", pytest.param("cifar1d", marks=pytest.mark.slow)])
def test_stages_features_and_statistics_are_those_of_explicit_sums(name, train):
    rows, variables, outputs, updates = run_float64(name, train)
    oracle = Oracle(variables, train)
    stages = oracle.encode(rows, sequences.SMALL[name].stem)
    for found, expected in zip(outputs["stages"], stages, strict=True):
        sequences.assert_tokens(found, expected, EXACT)
    features = [row.mean(axis=0) for row in stages[-1]]
    np.testing.assert_allclose(outputs["features"], features, atol=EXACT)
    for (block, norm), mean in oracle.updated.items():
        found = updates["batch_stats"][block] if block else updates["batch_stats"]
        np.testing.assert_allclose(found[norm]["mean"], mean, atol=EXACT)


def test_residual_branches_start_from_0_unless_they_are_live():
    for encoder, expected in ((ResNet1d(), 0), (ResNet1d().with_live_branches(), 1)):
        assert encoder.zero_init_residual == (expected == 0)


def test_an_unknown_stem_is_refused():
    with pytest.raises(UserError, match="stem 'cifar10' is unknown; use 'imagenet' or 'cifar'"):
        sequences.variables(ResNet1d(stem="cifar10"))
