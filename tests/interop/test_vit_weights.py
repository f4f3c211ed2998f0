"""ViTs are recognised by their names and shapes; their number of heads must be stated."""

import json

import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop.encoders import find_encoder, stated_heads
from cssl_jax.interop.vit.timm_vit import from_timm, to_timm
from cssl_jax.interop.vit.torchvision_vit import timm_names, torchvision_names
from cssl_jax.interop.vit.vit_weights import ViTArchitecture, find_vit, shapes

SMALL = ViTArchitecture(
    encoder="vit_micro",
    width=1 / 8,
    patch=4,
    heads=3,
    pool="token",
    layer_scale=False,
    size=8,
    channels=3,
)
MEAN = ViTArchitecture(
    encoder="vit_micro",
    width=1 / 8,
    patch=2,
    heads=6,
    pool="mean",
    layer_scale=True,
    size=6,
    channels=1,
)


def arrays(architecture=SMALL, seed=0):
    rng = np.random.default_rng(seed)
    return {
        key: rng.normal(size=shape).astype(np.float32)
        for key, shape in shapes(architecture).items()
    }


def below(prefix, content):
    return {prefix + key: value for key, value in content.items()}


OWN, OTHER = arrays(seed=0), arrays(seed=1)
PROJECTOR = {"module.base_encoder.head.0.weight": np.zeros((2, 2))}
# Names of torchvision's vit_b_16 for those of timm, by hand.
TORCHVISION = {
    "class_token": "cls_token",
    "conv_proj.weight": "patch_embed.proj.weight",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_1.ln_1.weight": "blocks.1.norm1.weight",
    "encoder.layers.encoder_layer_1.self_attention.in_proj_weight": "blocks.1.attn.qkv.weight",
    "encoder.layers.encoder_layer_1.self_attention.in_proj_bias": "blocks.1.attn.qkv.bias",
    "encoder.layers.encoder_layer_1.self_attention.out_proj.weight": "blocks.1.attn.proj.weight",
    "encoder.layers.encoder_layer_0.ln_2.bias": "blocks.0.norm2.bias",
    "encoder.layers.encoder_layer_0.mlp.0.weight": "blocks.0.mlp.fc1.weight",
    "encoder.layers.encoder_layer_0.mlp.3.bias": "blocks.0.mlp.fc2.bias",
    "encoder.ln.weight": "norm.weight",
}
# Content of a file, and the place of the encoder that its own method evaluates.
FILES = {
    "timm": ({**OWN, "head.weight": np.zeros((5, 24)), "head.bias": np.zeros(5)}, "(no prefix)"),
    "MAE": (
        {"model": {**OWN, "mask_token": np.zeros((1, 1, 8)), "decoder_norm.bias": np.zeros(8)}},
        "model/",
    ),
    "DINO": (
        {
            "student": below("module.backbone.", OTHER),
            "teacher": {**below("backbone.", OWN), "head.mlp.0.bias": np.zeros(3)},
        },
        "teacher/backbone.",
    ),
    "MoCo v3": (
        {
            "state_dict": {
                **below("module.momentum_encoder.", OTHER),
                **below("module.base_encoder.", OWN),
                **PROJECTOR,
            }
        },
        "state_dict/module.base_encoder.",
    ),
    "torchvision": (torchvision_names(OWN), "(no prefix)"),
}


def check_is(found, content):
    params = found.variables["params"]
    np.testing.assert_array_equal(
        params["block2"]["qkv"]["kernel"], content["blocks.1.attn.qkv.weight"].T
    )
    kernel = params["patch"]["kernel"].reshape(4, 4, 3, 24)
    assert kernel[1, 3, 2, 5] == content["patch_embed.proj.weight"][5, 2, 1, 3]
    np.testing.assert_array_equal(params["class_token"], content["cls_token"][0, 0])
    np.testing.assert_array_equal(params["positions"], content["pos_embed"][0])
    np.testing.assert_array_equal(
        params["block1"]["norm2"]["scale"], content["blocks.0.norm2.weight"]
    )


@pytest.mark.parametrize("library", FILES)
def test_the_encoder_that_the_method_evaluates_is_taken(library):
    tree, place = FILES[library]
    found = find_vit(tree, heads=3)
    assert str(found.branch) == place
    assert found.architecture == SMALL
    check_is(found, OWN)
    assert [use.count for use in found.uses if use.status == "taken"] == [len(OWN)]


def test_the_momentum_branch_is_taken_on_request():
    check_is(find_vit(FILES["MoCo v3"][0], "module.momentum_encoder.", heads=3), OTHER)


def test_every_array_of_the_file_is_accounted_for():
    uses = find_vit(FILES["MoCo v3"][0], heads=3).uses
    assert sum(use.count for use in uses) == 2 * len(OWN) + 1
    assert ("left", 1, "module.base_encoder.head: no part of the encoder") in {
        (use.status, use.count, use.what) for use in uses
    }


def test_names_of_torchvision_are_those_of_its_modules():
    for theirs, timms in TORCHVISION.items():
        assert list(timm_names({theirs: np.zeros(1)}, "")) == [timms]
        assert list(torchvision_names({timms: np.zeros(1)})) == [theirs]


@pytest.mark.parametrize("architecture", [SMALL, MEAN])
def test_there_and_back_is_the_same_state_dict_in_contiguous_arrays(architecture):
    content = arrays(architecture)
    if architecture.pool == "mean":  # timm's name of the last LayerNorm without a class token
        content = {
            key.replace("norm.", "fc_norm.", key.startswith("norm.")): value
            for key, value in content.items()
        }
    back = to_timm(from_timm(content)["params"], architecture.channels)
    assert back.keys() == content.keys()
    for key, array in content.items():
        assert back[key].flags.c_contiguous
        np.testing.assert_array_equal(back[key], array, strict=True)
    found = find_vit(content, heads=architecture.heads)
    assert found.architecture == architecture


def test_a_missing_position_of_the_class_token_is_zero():
    content = {**OWN, "pos_embed": OWN["pos_embed"][:, 1:]}  # timm's no_embed_class
    positions = find_vit(content, heads=3).variables["params"]["positions"]
    np.testing.assert_array_equal(positions[0], np.zeros(24))
    np.testing.assert_array_equal(positions[1:], OWN["pos_embed"][0, 1:])


def test_usual_heads_are_the_default_of_the_encoder_and_others_are_named():
    assert find_encoder(OWN, heads=3).model["heads"] == 0
    found = find_encoder(OWN, heads=6)
    assert found.model["heads"] == 6
    assert found.assumed.size == 8
    assert "6 heads, patches of 4 px" in found.description


def test_unknown_heads_are_asked_for():
    with pytest.raises(
        UserError, match=r"does not state .* heads of its vit_micro.*--heads 3` makes"
    ):
        find_encoder(OWN)
    wide = shapes(ViTArchitecture(**{**vars(SMALL), "encoder": "vit_small", "width": 1.0}))
    with pytest.raises(UserError, match="timm's has 6 and MoCo v3's 12"):
        find_encoder({key: np.zeros(shape, np.float16) for key, shape in wide.items()})


@pytest.mark.parametrize(
    ("metadata", "config", "heads"),
    [
        ({}, None, 0),
        (
            {"cssl_jax": json.dumps({"model": {"heads": 12}})},
            {"architecture": "vit_small_patch16_224"},
            12,
        ),
        ({}, {"architecture": "vit_small_patch16_224", "model_args": {"num_heads": 12}}, 12),
        ({}, {"architecture": "vit_small_patch16_224.augreg_in1k"}, 6),
        ({}, {"num_attention_heads": 16}, 16),
        ({}, {"architecture": "resnet50"}, 0),
        ({}, [1], 0),
        ({"cssl_jax": "{"}, {"model_args": 3}, 0),
        ({}, {"num_attention_heads": -2}, 0),
    ],
)
def test_heads_are_those_that_the_file_or_its_folder_states(metadata, config, heads, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert stated_heads(tmp_path / "model.safetensors", metadata) == heads


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
        (
            changed(reg_token=(1, 4, 24), pos_embed=(1, 9, 24)),
            "reg_token is no part of",
        ),
        (changed(pos_embed=(1, 7, 24)), "7 positions, which are no square of patches and a class"),
        (changed(pos_embed=None), "have no pos_embed"),
        (changed(blocks__2__norm1__weight=(24,)), "a ViT with 3 blocks, which is no encoder"),
        (changed(norm__bias=None), r"lack norm\.bias of a vit_micro of width 0\.125 \(1 arrays"),
        (changed(blocks__0__mlp__fc1__weight=(48, 24)), "such as one with a narrower MLP"),
        (
            changed(blocks__0__attn__q_norm__weight=(8,)),
            r"q_norm\.weight is no part of a vit_micro",
        ),
        (changed(patch_embed__proj__weight=(24, 3, 4, 2)), "a ViT's patches are squares"),
        ({**OWN, "norm.bias": np.full(24, np.nan)}, "norm.bias has values that are not finite"),
    ],
)
def test_other_networks_are_refused_with_the_reason(content, message):
    with pytest.raises(UserError, match=message):
        find_vit(content, heads=3)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"5 heads do not divide the 24 channels.*--heads 3"):
        find_vit(OWN, heads=5)


@pytest.mark.parametrize(
    "key", ["blocks.0.attn.relative_bias", "mask_token", "patch_embed.norm.bias"]
)
def test_an_unknown_key_is_named(key):
    with pytest.raises(UserError, match=f"'{key}' is no weight of timm's VisionTransformer"):
        from_timm({key: np.zeros(3)})


def test_parameters_of_another_module_are_refused():
    with pytest.raises(UserError, match="'conv1/kernel' is no parameter of a ViT"):
        to_timm({"conv1": {"kernel": np.zeros((3, 3))}}, 3)
