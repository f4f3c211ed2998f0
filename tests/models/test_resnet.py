"""ResNet encoders: agreement with torchvision, with numbers of the papers and with closed forms."""

import functools
import math
import pathlib
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.errors import UserError
from cssl_jax.interop.torchvision import from_torchvision, to_torchvision
from cssl_jax.models.registry import build_encoder
from cssl_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from cssl_jax.runtime.spmd import AXIS, make_mesh
from tests.helpers.marks import fast, slow

GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"
# Imported by path: torchvision.npz was created with the same functions.
seeded = types.SimpleNamespace(**runpy.run_path(str(GOLDENS / "seeded_weights.py")))
STORED = 1e-6  # relative tolerance: both sides compute in float64, goldens are stored in float32
LAST_NORM = {"resnet18": "layer4.1.bn2", "resnet50": "layer4.2.bn3"}

# Parameter counts of torchvision's documentation minus the classifier (1000 D + 1000).
TORCHVISION_PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
WIDTHS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}


def shapes_of(encoder, size=32):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), images)


def parameter_count(encoder):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes_of(encoder)["params"]))


def randomise(encoder, seed, dtype=np.float32):
    """Random variables that differ from the initial zeros and ones."""
    shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, dtype), shapes_of(encoder))
    keys = {key: array.shape for key, array in to_torchvision(shapes).items()}
    weights = seeded.seeded_weights(keys, seed)
    return from_torchvision({key: w.astype(dtype) for key, w in weights.items()})


def tiny(block=BasicBlock, **options):
    """Encoder of two stages, one of which halves the size: shortcuts with and without weights."""
    return ResNet((2, 1), block, width=0.125, stem="cifar", **options)


def images_of(shape=(4, 8, 8, 3), seed=0):
    return seeded.seeded_images(shape, seed).astype(np.float32)


def relative_error(actual, expected):
    """Largest difference divided by largest magnitude, because single entries can cancel to 0."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS / "torchvision.npz") as file:
        return dict(file)


def golden_case(goldens, case):
    """(encoder, seed, images) of a case of make_torchvision_goldens.py."""
    name, _, stem = case.partition("_")
    seed = int(goldens[f"{case}/seed"])
    images = seeded.seeded_images(tuple(goldens[f"{case}/input_shape"]), seed)
    return build_encoder(name, stem=stem or "imagenet"), seed, images


@pytest.fixture(scope="module")
def encoded(goldens):
    """Case -> (weights with torch names, outputs per mode, weights after a training pass)."""

    @functools.cache
    def encode(case):
        encoder, seed, images = golden_case(goldens, case)
        # float64, because BatchNorm over the 8 positions of the last stage magnifies rounding a
        # thousandfold. torchvision's float32 has an error of 2e-4 there.
        with jax.enable_x64(True):
            variables = randomise(encoder, seed, np.float64)
            train = jax.jit(lambda v, x: encoder.apply(v, x, True, mutable=["batch_stats"]))
            trained, updates = jax.device_get(train(variables, images))
            evaluated = jax.device_get(jax.jit(encoder.apply)(variables, images))
        after = to_torchvision({"params": variables["params"], **updates})
        return to_torchvision(variables), {"eval": evaluated, "train": trained}, after

    return encode


@pytest.mark.parametrize("mode", [slow("eval"), "train"])
@pytest.mark.parametrize("case", [slow("resnet18"), "resnet18_cifar", slow("resnet50")])
def test_features_and_stages_match_torchvision(goldens, encoded, case, mode):
    output = encoded(case)[1][mode]
    for i, stage in enumerate(output["stages"], start=1):
        assert stage.shape == tuple(goldens[f"{case}/{mode}/stage{i}_shape"])
        golden = goldens[f"{case}/{mode}/stage{i}"]
        assert relative_error(seeded.sample(stage), golden) < STORED, f"stage {i}"
    assert output["features"].dtype == np.float64
    assert relative_error(output["features"], goldens[f"{case}/{mode}/features"]) < STORED


@pytest.mark.slow
def test_float32_features_are_close_to_torchvision(goldens):
    encoder, seed, images = golden_case(goldens, "resnet50")
    with jax.default_matmul_precision("float32"):
        output = jax.jit(encoder.apply)(randomise(encoder, seed), images.astype(np.float32))
    # Rounding errors of 2^-24 add up to about 1e-6 over 53 layers.
    assert relative_error(output["features"], goldens["resnet50/eval/features"]) < 1e-5


@pytest.mark.parametrize("case", [slow("resnet18"), "resnet18_cifar", slow("resnet50")])
def test_running_statistics_match_torchvision(goldens, encoded, case):
    before, output, after = encoded(case)
    n, height, width, _ = goldens[f"{case}/input_shape"]
    stem_stride = 1 if case.endswith("cifar") else 2
    stem_size = n * -(-height // stem_stride) * -(-width // stem_stride)
    last_size = math.prod(output["train"]["stages"][-1].shape[:-1])
    for module, size in (("bn1", stem_size), (LAST_NORM[case.partition("_")[0]], last_size)):
        mean, var = f"{module}.running_mean", f"{module}.running_var"
        assert relative_error(after[mean], goldens[f"{case}/train/{mean}"]) < STORED
        # torch stores the unbiased variance, this package the biased one:
        # 0.9 old + 0.1 new (size - 1) / size.
        retained = 0.9 * before[var]
        expected = retained + (goldens[f"{case}/train/{var}"] - retained) * (size - 1) / size
        assert relative_error(after[var], expected) < STORED


@pytest.mark.parametrize("name", fast(TORCHVISION_PARAMETERS, ["resnet18", "resnet50"]))
def test_parameter_counts_match_torchvision(name):
    assert parameter_count(build_encoder(name)) == TORCHVISION_PARAMETERS[name]


@pytest.mark.slow
def test_resnet200_is_resnet152_with_16_more_blocks_in_its_second_stage():
    convolutions = 512 * 128 + 9 * 128 * 128 + 128 * 512
    block = convolutions + 2 * (128 + 128 + 512)
    count = parameter_count(build_encoder("resnet200"))
    assert count == TORCHVISION_PARAMETERS["resnet152"] + 16 * block
    assert round((count + 2_049_000) / 1e6, 2) == 64.67  # from the model table of timm


@pytest.mark.parametrize(("width", "millions"), [(1, 24), slow(2, 94), slow(4, 375)])
def test_wide_resnet50_has_the_size_reported_by_simclr(width, millions):
    """Sizes of table 6 of arXiv 2002.05709 and table 1 of arXiv 2006.10029."""
    assert round(parameter_count(build_encoder("resnet50", width=width)) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        *(("resnet50", 1, 35), slow("resnet50", 2, 140), slow("resnet101", 1, 65)),
        *(slow("resnet101", 2, 257), slow("resnet152", 1, 89), slow("resnet152", 2, 354)),
        slow("resnet152", 3, 795),
    ],
)
def test_resnets_with_selective_kernels_have_the_sizes_reported_by_simclr_v2(name, width, millions):
    """Sizes of table 1 of arXiv 2006.10029, which count the running statistics."""
    shapes = shapes_of(build_encoder(name, width=width, variant="simclr_sk"))
    assert round(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6) == millions


@pytest.mark.parametrize("width", [slow(1), slow(2), 0.125])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_feature_width_scales_with_the_width(name, width):
    encoder = build_encoder(name, width=width)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    output, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert output["features"].shape == (2, WIDTHS[name] * width)
    assert [stage.shape[1] for stage in output["stages"]] == [8, 4, 2, 1]


def test_cifar_stem_keeps_the_image_size():
    encoder = build_encoder("resnet18", stem="cifar", width=0.125)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    output, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert [stage.shape[1] for stage in output["stages"]] == [32, 16, 8, 4]
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 8)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_compute_gives_float32_features_close_to_those_of_float32(train):
    variables = randomise(tiny(), seed=1)

    def run(dtype):
        encoder = tiny(dtype=dtype)
        apply = jax.jit(lambda v, x: encoder.apply(v, x, train, mutable=["batch_stats"]))
        return apply(variables, images_of())

    full, half = run(None), run(jnp.bfloat16)
    assert half[0]["features"].dtype == jnp.float32
    assert {stage.dtype for stage in half[0]["stages"]} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(half[1])} == {jnp.dtype(jnp.float32)}
    # bfloat16 rounds by 2^-9 (0.2 %) at each of 20 operations; a missing scale would change tens
    # of %.
    error = relative_error(half[0]["features"], full[0]["features"])
    assert 1e-5 < error < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_remat_preserves_outputs_and_gradients_and_drops_activations(block):
    images, results, residual_bytes = images_of((4, 16, 16, 3)), [], []
    for remat in (False, True):
        encoder = ResNet((2, 2), block, width=0.125, stem="cifar", remat=remat)
        variables = randomise(encoder, seed=2)

        def loss(params, stats, images, encoder=encoder):
            variables = {"params": params, "batch_stats": stats}
            output, updates = encoder.apply(variables, images, True, mutable=["batch_stats"])
            return jnp.square(output["features"]).sum(), (output["features"], updates)

        arguments = (variables["params"], variables["batch_stats"], images)
        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(*arguments))
        # The stored residuals are the leaves of the function that vjp returns. The memory of the
        # compiled step is no evidence: XLA on CPUs removes the barriers of remat.
        backward = jax.eval_shape(lambda *a, f=loss: jax.vjp(f, *a, has_aux=True)[1], *arguments)
        residual_bytes.append(
            sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))
        )
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(results[0][1]))
    for one, other in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        # The same operations are fused differently: float32 rounding of sums over 1,024 positions.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)
    assert residual_bytes[1] < 0.5 * residual_bytes[0]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_residual_branches_are_zero_at_initialisation(block):
    encoder = tiny(block)
    apply = jax.jit(lambda v, x: encoder.apply(v, x, True, mutable=["batch_stats"])[0])
    key = jax.random.key(0, impl="rbg")  # compiles in a tenth of the time of the default
    variables = jax.jit(encoder.init)(key, images_of())
    before = apply(variables, images_of())

    def scramble(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        in_branch = name.startswith("layer") and "/conv" in name
        return leaf + 1.0 if in_branch else leaf

    params = jax.tree_util.tree_map_with_path(scramble, variables["params"])
    after = apply({**variables, "params": params}, images_of())
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert np.abs(before["features"]).max() > 0


def test_the_last_scale_of_a_residual_branch_starts_at_0_or_1():
    for zero, expected in ((True, 0.0), (False, 1.0)):
        encoder = tiny(zero_init_residual=zero)
        params = jax.jit(encoder.init)(jax.random.key(0, impl="rbg"), images_of())["params"]
        np.testing.assert_array_equal(params["layer1_0"]["bn2"]["scale"], expected)
        np.testing.assert_array_equal(params["layer1_0"]["bn1"]["scale"], 1.0)


def test_keys_change_nothing_and_a_mask_of_patches_is_refused():
    variables, keys = randomise(tiny(), seed=4), np.zeros((4, 2), np.uint32)
    plain, keyed = (
        tiny().apply(variables, images_of(), keys=given)["features"] for given in (None, keys)
    )
    np.testing.assert_array_equal(plain, keyed)
    with pytest.raises(UserError, match="a ResNet cannot omit patches"):
        tiny().apply(variables, images_of(), keep=np.ones((4, 16), bool))


def test_an_unknown_encoder_is_rejected_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'resnet5O'.*did you mean 'resnet50'"):
        build_encoder("resnet5O")


def test_an_unknown_stem_is_rejected():
    with pytest.raises(UserError, match=r"stem 'cifar10' is unknown; use 'imagenet' or 'cifar'"):
        shapes_of(build_encoder("resnet18", stem="cifar10"))


def test_a_variant_that_the_blocks_do_not_have_is_rejected():
    with pytest.raises(UserError, match=r"'simclr_sk' is unknown here; use torchvision or simclr"):
        shapes_of(build_encoder("resnet18", variant="simclr_sk"))


@pytest.mark.parametrize("groups", [1, 2])
def test_encoder_on_several_devices_is_the_encoder_on_one(groups):
    """Every BatchNorm uses the axis and the groups, so each group behaves like a separate batch."""
    images = images_of((8, 8, 8, 3))
    variables = randomise(tiny(), seed=3)

    def forward(variables, images, encoder):
        output, updates = encoder.apply(variables, images, True, mutable=["batch_stats"])
        return output["features"], updates

    on_one_device = jax.jit(functools.partial(forward, encoder=tiny()))
    references = [on_one_device(variables, part) for part in np.split(images, groups)]
    mapped = jax.shard_map(
        functools.partial(forward, encoder=tiny(axis_name=AXIS, norm_groups=groups)),
        mesh=make_mesh(jax.devices()[:4]),
        in_specs=(P(), P(AXIS)),
        out_specs=(P(AXIS), P()),
        check_vma=False,
    )
    features, updates = jax.jit(mapped)(variables, images)
    # float32 sums in another order. Statistics per device would differ by tens of %.
    assert relative_error(features, np.concatenate([part[0] for part in references])) < 1e-4
    average = jax.tree.map(lambda *leaves: sum(leaves) / groups, *(part[1] for part in references))
    for actual, expected in zip(jax.tree.leaves(updates), jax.tree.leaves(average), strict=True):
        assert relative_error(actual, expected) < 1e-4
