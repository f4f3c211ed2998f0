"""Masks of weight decay and LARS: kernels in, biases and normalisation out."""

import jax
import numpy as np

from cssl_jax.optim import exclusions

PARAMS = {
    "encoder": {
        "conv_init": {"kernel": np.zeros((3, 3, 3, 4))},
        "bn_init": {"scale": np.zeros(4), "bias": np.zeros(4)},
        "block0": {
            "conv": {"kernel": np.zeros((1, 1, 4, 4))},
            "norm": {"scale": np.zeros(4), "bias": np.zeros(4)},
        },
    },
    "projector": {"dense": {"kernel": np.zeros((4, 3)), "bias": np.zeros(3)}},
}


def test_the_mask_selects_kernels_and_excludes_norms_and_biases():
    mask = exclusions.decay_mask(PARAMS)
    assert mask == jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", PARAMS
    )


def test_exclusion_depends_on_the_last_key_or_the_number_of_axes():
    key = jax.tree_util.DictKey
    matrix, vector, scalar = np.ones((2, 2)), np.ones(2), np.ones(())
    assert exclusions.is_norm_or_bias((key("norm"), key("scale")), matrix)
    assert exclusions.is_norm_or_bias((key("dense"), key("bias")), matrix)
    assert exclusions.is_norm_or_bias((key("prelu"), key("slope")), vector)
    assert exclusions.is_norm_or_bias((key("logit_temperature"),), scalar)
    assert exclusions.is_norm_or_bias((key("encoder"), key("positions")), matrix)
    assert exclusions.is_norm_or_bias((key("encoder"), key("class_token")), matrix)
    assert exclusions.is_norm_or_bias((key("decoder"), key("mask_token")), matrix)
    assert not exclusions.is_norm_or_bias((key("scale"), key("kernel")), matrix)
    assert not exclusions.is_norm_or_bias((), matrix)


def test_the_description_counts_excluded_tensors_by_name():
    table = exclusions.describe_exclusions(PARAMS).splitlines()
    # Kernels have 3*3*3*4 + 1*1*4*4 + 4*3 = 136 entries. The others are four vectors of 4 and one
    # of 3.
    assert table[1].split() == ["applied", "3", "136"]
    assert table[2].split(maxsplit=3) == ["excluded", "5", "19", "(bias 3, scale 2)"]
    assert table[0].startswith("weight decay, LARS adaptation ")
    other = exclusions.describe_exclusions(PARAMS, adapts=False).splitlines()
    assert other[0].split() == ["weight", "decay", "tensors", "parameters"]
    assert other[1:] == table[1:]


def test_the_description_needs_only_shapes():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert exclusions.describe_exclusions(shapes) == exclusions.describe_exclusions(PARAMS)
    table = exclusions.describe_exclusions(shapes, exclude_norm_and_bias=False).splitlines()
    assert [row.split() for row in table[1:]] == [["applied", "8", "155"], ["excluded", "0", "0"]]
