"""ResNets are recognised by their names and shapes, whatever wraps them."""

import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop.resnet_weights import Architecture, find_resnet, shapes

SMALL = Architecture(encoder="resnet10", width=1 / 16, stem="imagenet", channels=3)
DEEP = Architecture(encoder="resnet50", width=1 / 16, stem="cifar", channels=1)


def arrays(architecture=SMALL, seed=0):
    rng = np.random.default_rng(seed)
    return {
        key: rng.normal(size=shape).astype(np.float32)
        for key, shape in shapes(architecture).items()
    }


def below(prefix, content):
    return {prefix + key: value for key, value in content.items()}


def sequential(content):
    """Names of a Sequential over the children of torchvision's ResNet."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    split = ((key.partition("."), value) for key, value in content.items())
    return {f"{numbers[child]}.{rest}": value for (child, _, rest), value in split}


def huggingface(content):
    """Names of Hugging Face's ResNetModel."""
    kinds = {"conv": "convolution", "bn": "normalization"}

    def name(key):
        *parts, leaf = key.split(".")
        kind, number = kinds[parts[-1].rstrip("0123")] if "conv" in key or "bn" in key else "", ""
        if len(parts) == 1:
            return f"embedder.embedder.{kind}.{leaf}"
        stage, block = int(parts[0][-1]) - 1, parts[1]
        start = f"encoder.stages.{stage}.layers.{block}"
        if parts[2] == "downsample":
            part = "convolution" if parts[3] == "0" else "normalization"
            return f"{start}.shortcut.{part}.{leaf}"
        number = int(parts[2][-1]) - 1
        return f"{start}.layer.{number}.{kinds[parts[2][:-1]]}.{leaf}"

    return {name(key): value for key, value in content.items()}


OWN, OTHER = arrays(seed=0), arrays(seed=1)
HEAD = {"module.encoder_q.fc.0.weight": np.zeros((2, 2)), "module.queue": np.zeros((2, 2))}
# Content of a file, and the place of the encoder that its own method evaluates.
FILES = {
    "torchvision, timm, Barlow Twins": ({**OWN, "fc.weight": np.zeros((5, 32))}, "(no prefix)"),
    "MoCo v2": (
        {
            "epoch": 3,
            "state_dict": {
                **below("module.encoder_k.", OTHER),
                **below("module.encoder_q.", OWN),
                **HEAD,
            },
        },
        "state_dict/module.encoder_q.",
    ),
    "MoCo v3": (
        {
            "state_dict": {
                **below("module.momentum_encoder.", OTHER),
                **below("module.base_encoder.", OWN),
            }
        },
        "state_dict/module.base_encoder.",
    ),
    "Barlow Twins, VICReg": (
        {"model": below("module.backbone.", OWN)},
        "model/module.backbone.",
    ),
    "SwAV": (
        {"state_dict": {**below("module.", OWN), "module.prototypes.weight": np.zeros((3, 2))}},
        "state_dict/module.",
    ),
    "SimSiam": ({"state_dict": below("module.encoder.", OWN)}, "state_dict/module.encoder."),
    "DINO": (
        {
            "student": below("module.backbone.", OTHER),
            "teacher": below("backbone.", OWN),
        },
        "teacher/backbone.",
    ),
    "lightly examples": (
        {"state_dict": below("backbone.", sequential(OWN))},
        "state_dict/backbone.",
    ),
    "solo-learn": (
        {
            "state_dict": {
                **below("momentum_backbone.", OTHER),
                **below("backbone.", OWN),
                "classifier.weight": np.zeros((3, 2)),
            }
        },
        "state_dict/backbone.",
    ),
    "timm": (
        {"state_dict": OTHER, "state_dict_ema": OWN},
        "state_dict_ema/",
    ),
    "VISSL": (
        {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": below("_feature_blocks.", OWN), "heads": {}}}
            }
        },
        "classy_state_dict/base_model/model/trunk/_feature_blocks.",
    ),
    "Hugging Face": (below("resnet.", huggingface(OWN)), "resnet."),
}


def check_is(found, content):
    kernel = content["layer2.0.downsample.0.weight"]
    ours = found.variables["params"]["layer2_0"]["downsample_conv"]["kernel"]
    np.testing.assert_array_equal(ours, kernel.transpose(2, 3, 1, 0))
    variance = found.variables["batch_stats"]["layer4_0"]["bn2"]["var"]
    np.testing.assert_array_equal(variance, content["layer4.0.bn2.running_var"])


@pytest.mark.parametrize("library", FILES)
def test_the_encoder_that_the_method_evaluates_is_taken(library):
    tree, place = FILES[library]
    found = find_resnet(tree)
    assert str(found.branch) == place
    assert found.architecture == SMALL
    check_is(found, OWN)
    assert [use.count for use in found.uses if use.status == "taken"] == [len(OWN)]


def test_the_momentum_branch_is_taken_on_request():
    check_is(find_resnet(FILES["MoCo v2"][0], "module.encoder_k."), OTHER)
    check_is(find_resnet(FILES["DINO"][0], "student/module.backbone."), OTHER)
    with pytest.raises(UserError, match=r"no encoder has the prefix 'q\.'; use state_dict/module"):
        find_resnet(FILES["MoCo v2"][0], "q.")


def test_every_array_of_the_file_is_accounted_for():
    tree = FILES["MoCo v2"][0]
    extra = {"module.encoder_q.bn1.num_batches_tracked": np.array(3)}
    uses = find_resnet({"state_dict": {**tree["state_dict"], **extra}}).uses
    assert sum(use.count for use in uses) == len(tree["state_dict"]) + 1
    lines = {use.what: (use.status, use.count) for use in uses}
    other = "state_dict/module.encoder_k.: another encoder; choose it by its prefix "
    assert lines[other + "'module.encoder_k.'"] == ("left", len(OTHER))
    assert lines["module.encoder_q.fc: no part of the encoder"] == ("left", 1)
    assert lines["num_batches_tracked: counters, no weights"] == ("left", 1)


@pytest.mark.parametrize("architecture", [SMALL, DEEP])
def test_encoder_width_stem_and_channels_are_recognised(architecture):
    assert find_resnet(arrays(architecture)).architecture == architecture


def changed(**changes):
    content = arrays()
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del content[key]
        else:
            content[key] = np.zeros(value, np.float32)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no ResNet or ViT found among the 0 arrays"),
        ({"cls_token": np.zeros(3)}, r"no ResNet or ViT found among the 1 arrays \(cls_token"),
        (
            {key: value for key, value in arrays().items() if not key.startswith("layer4")},
            r"3 stages of \(1, 1, 1\) basic blocks, which is no encoder",
        ),
        (changed(layer1__1__conv1__weight=(4, 4, 3, 3)), r"\(2, 1, 1, 1\) basic blocks"),
        (changed(layer2__0__bn1__bias=None), r"lack layer2\.0\.bn1\.bias of a resnet10"),
        (
            changed(layer1__0__conv2__weight=(4, 1, 3, 3)),
            r"conv2.weight has shape \(4, 1, 3, 3\) .* another kind of ResNet",
        ),
        (changed(layer1__0__se__fc1__weight=(4, 4)), r"layer1\.0\.se\.fc1\.weight is no part"),
        (changed(conv1__bias=(4,)), r"conv1\.bias is no part"),
        (changed(conv1__weight=(4, 3, 5, 5)), "a 7x7 or 3x3 convolution"),
        (changed(conv1__weight=(4, 3)), "a 7x7 or 3x3 convolution"),
        ({**arrays(), "bn1.bias": np.full(4, np.nan)}, "bn1.bias has values that are not finite"),
    ],
)
def test_other_networks_are_refused_with_the_reason(content, message):
    with pytest.raises(UserError, match=message):
        find_resnet(content)
