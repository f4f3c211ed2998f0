"""The mapping of names and layouts; that the numbers agree too is shown in test_resnet.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop.torchvision import from_torchvision, to_torchvision
from cssl_jax.models.resnet import BasicBlock, Bottleneck, ResNet

# The state dict of torchvision's ResNet(BasicBlock, [1, 1, ...]) with 4 channels, up to layer2.
BASIC = {
    "conv1.weight": (4, 3, 7, 7),
    "layer1.0.conv1.weight": (4, 4, 3, 3),
    "layer1.0.conv2.weight": (4, 4, 3, 3),
    "layer2.0.conv1.weight": (8, 4, 3, 3),
    "layer2.0.conv2.weight": (8, 8, 3, 3),
    "layer2.0.downsample.0.weight": (8, 4, 1, 1),
}
NORMS = {
    "bn1": 4,
    "layer1.0.bn1": 4,
    "layer1.0.bn2": 4,
    "layer2.0.bn1": 8,
    "layer2.0.bn2": 8,
    "layer2.0.downsample.1": 8,
}


def state_dict():
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in BASIC.items()}
    for module, channels in NORMS.items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{module}.{leaf}"] = rng.normal(size=channels).astype(np.float32)
    return arrays


def shapes_of(encoder):
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), images)


def small(block=BasicBlock):
    return ResNet((1, 1), block, width=4 / 64)


def test_a_state_dict_becomes_the_encoders_variables():
    arrays = state_dict()
    variables = from_torchvision(arrays, expected=shapes_of(small()))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes_of(small()))
    ours = variables["params"]["layer2_0"]["downsample_conv"]["kernel"]
    assert ours[0, 0, 3, 6] == arrays["layer2.0.downsample.0.weight"][6, 3, 0, 0]
    assert variables["params"]["conv1"]["kernel"][5, 2, 1, 3] == arrays["conv1.weight"][3, 1, 5, 2]
    for collection, ours, theirs in (
        ("params", "scale", "weight"),
        ("params", "bias", "bias"),
        ("batch_stats", "mean", "running_mean"),
        ("batch_stats", "var", "running_var"),
    ):
        leaf = variables[collection]["layer1_0"]["bn2"][ours]
        np.testing.assert_array_equal(leaf, arrays[f"layer1.0.bn2.{theirs}"])


def test_there_and_back_is_the_same_state_dict_in_contiguous_arrays():
    arrays = state_dict()
    back = to_torchvision(from_torchvision(arrays))
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        assert back[key].flags.c_contiguous
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_back_and_there_is_the_same_tree(block):
    shapes = shapes_of(small(block))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    again = from_torchvision(to_torchvision(variables), expected=shapes)
    jax.tree.map(np.testing.assert_array_equal, variables, again)


def test_classifier_and_batch_counters_are_omitted():
    extra = {
        "fc.weight": np.zeros((10, 8)),
        "fc.bias": np.zeros(10),
        "bn1.num_batches_tracked": np.array(7),
        "layer2.0.downsample.1.num_batches_tracked": np.array(7),
    }
    variables = from_torchvision({**state_dict(), **extra}, expected=shapes_of(small()))
    assert to_torchvision(variables).keys() == state_dict().keys()


@pytest.mark.parametrize(
    "key",
    [
        "module.conv1.weight",
        "conv1.bias",
        "bn1.gamma",
        "layer1.0.se.weight",
        "layer1.0.downsample.2.weight",
        "encoder",
    ],
)
def test_an_unknown_key_is_named(key):
    with pytest.raises(UserError, match=f"'{key}' is no weight"):
        from_torchvision({**state_dict(), key: np.zeros(4)})


def test_a_missing_key_is_named():
    arrays = state_dict()
    del arrays["layer2.0.bn2.running_var"]
    with pytest.raises(UserError, match=r"lacks layer2\.0\.bn2\.running_var \(1 in all\)"):
        from_torchvision(arrays, expected=shapes_of(small()))


def test_a_key_too_many_is_named():
    arrays = {**state_dict(), "layer3.0.conv1.weight": np.zeros((16, 8, 3, 3))}
    with pytest.raises(UserError, match=r"does not, layer3\.0\.conv1\.weight"):
        from_torchvision(arrays, expected=shapes_of(small()))


def test_a_wrong_shape_is_named():
    arrays = {**state_dict(), "conv1.weight": np.zeros((4, 3, 3, 3))}
    with pytest.raises(UserError, match=r"'conv1.weight' has shape \(4, 3, 3, 3\).*\(4, 3, 7, 7\)"):
        from_torchvision(arrays, expected=shapes_of(small()))


def test_a_wrong_number_of_axes_is_named():
    with pytest.raises(UserError, match=r"'conv1.weight' has shape \(4, 3\)"):
        from_torchvision({"conv1.weight": np.zeros((4, 3))})


def test_variables_of_another_module_are_refused():
    kernel = np.zeros((3, 4))
    with pytest.raises(UserError, match="'params/dense1/kernel' is no weight of a ResNet encoder"):
        to_torchvision({"params": {"dense1": {"kernel": kernel}}})
