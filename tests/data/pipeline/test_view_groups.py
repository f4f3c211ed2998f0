"""View groups of different size, number and policy are identical in every input placement."""

import collections
import dataclasses

import jax
import numpy as np
import PIL.Image
import pytest

from cssl_jax.augment.image.policy import ImagePolicy, sample_views
from cssl_jax.augment.view_group import SizedGroup, ViewGroup, number_groups
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.pipeline.paired import PairPipeline, target_sampler
from cssl_jax.data.pipeline.registry import PIPELINES
from cssl_jax.data.sampler import Sampler, example_key
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.data.sources.open import load_source
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.errors import UserError
from cssl_jax.modalities.image import IMAGE
from helpers import multi_crop, tiny
from helpers.augment_oracles import LARGEST, MEAN, only
from tests.helpers.marks import slow

# The main views flip never and always, the local ones always, never and always.
POLICY = dataclasses.replace(tiny.config().augment, horizontal_flip=(0.0, 1.0))
FLIPS = {"main": [False, True], "local": [True, False, True]}
SHAPES = {"main": (16, 2, 8, 8, 3), "local": (16, 3, 5, 5, 3)}
HOST = [
    *[("threads", "opencv"), slow("tf-split", "opencv"), slow("tf", "opencv")],
    *[slow("threads", "jax"), slow("threads-split", "jax"), slow("threads-split", "opencv")],
    *[slow("tf", "jax"), slow("tf-split", "jax")],
]


def make_pipeline(name, kernels="opencv", source=None, views=multi_crop.VIEWS, policy=POLICY):
    if name.startswith("tf"):
        pytest.importorskip("tensorflow")
    source = source or tiny.image_source(channels=3)
    pipeline = PIPELINES[name](
        source=source,
        sampler=Sampler(len(source), 16, seed=0),
        groups=number_groups(views, size=8, policy=policy),
        spec=ImageSpec(8, source.channels, (0.0,) * source.channels, (1.0,) * source.channels),
        modality=IMAGE,
        rows=np.arange(16),
    )
    return pipeline.with_kernels(kernels)


def batches(pipeline, start=0, stop=2, make=None):
    make = make or jax.jit(pipeline.make_batch)
    return [
        jax.device_get(make(np.int32(step), pipeline.constants, host_batch))
        for step, host_batch in zip(
            range(start, stop), pipeline.host_batches(start, stop), strict=True
        )
    ]


@pytest.fixture(scope="module")
def resident():
    return batches(make_pipeline("resident"))


def test_a_batch_has_each_group_by_its_own_size_count_and_probabilities(resident):
    for batch in resident:
        assert {name: x.shape for name, x in batch["views"].items()} == SHAPES
        for name, flips in FLIPS.items():
            drawn = batch["drawn"][name]
            assert drawn.keys() == set(multi_crop.KEPT)
            np.testing.assert_array_equal(drawn["horizontal_flip"], [flips] * 16)
            assert drawn["crop_box"].shape == (16, len(flips), 4)
            assert drawn["crop_box"].min() >= 0
            assert (drawn["crop_box"][..., :2] + drawn["crop_box"][..., 2:]).max() <= 1


def assert_same_batches(ours, theirs, largest, mean):
    for batch, other in zip(ours, theirs, strict=True):
        for name in ("index", "key", "label", "mask"):
            np.testing.assert_array_equal(batch[name], other[name])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), batch["drawn"], other["drawn"]
        )
        for name, shape in SHAPES.items():
            assert batch["views"][name].shape == shape
            difference = np.abs(batch["views"][name] - other["views"][name])
            assert difference.max() <= largest
            assert difference.mean() <= mean


def test_streamed_groups_are_those_of_resident_images(resident):
    # Two compilations may order the same float32 arithmetic differently.
    assert_same_batches(batches(make_pipeline("stream")), resident, 1e-5, 1e-5)


@pytest.mark.parametrize(("name", "kernels"), HOST)
def test_groups_of_the_host_match_those_of_the_device(resident, name, kernels):
    pipeline = make_pipeline(name, kernels)
    assert pipeline.kernels == pipeline.view_job.kernels == kernels
    assert_same_batches(batches(pipeline), resident, LARGEST, MEAN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels"),
    [("resident", "jax"), ("threads", "opencv"), ("threads", "jax"), ("tf", "opencv")],
)
def test_the_bits_repeat_and_do_not_depend_on_the_first_step(name, kernels):
    pipeline = make_pipeline(name, kernels)
    make = jax.jit(pipeline.make_batch)
    whole = batches(pipeline, 0, 4, make)
    jax.tree.map(np.testing.assert_array_equal, batches(pipeline, 0, 4, make), whole)
    jax.tree.map(np.testing.assert_array_equal, batches(pipeline, 3, 4, make), whole[3:])


# ------------------------------------------------------------------------------------- view numbers


def distinct(drawn):
    """Number of different values of ``crop_y`` among the views of each example."""
    numbers = np.concatenate([values["crop_y"] for values in drawn.values()], axis=1)
    return {len(set(row)) for row in numbers.tolist()}


def test_no_two_views_of_an_example_share_random_numbers(resident):
    assert all(distinct(batch["drawn"]) == {5} for batch in resident)


def test_view_numbers_that_start_again_in_each_group_are_caught():
    pipeline = make_pipeline("resident")
    groups = {name: dataclasses.replace(g, first=0) for name, g in pipeline.groups.items()}
    mutant = dataclasses.replace(pipeline, groups=groups)
    assert all(distinct(batch["drawn"]) == {3} for batch in batches(mutant))


def test_two_groups_draw_what_one_group_of_all_views_draws():
    policy, keys = ImagePolicy(), example_key(0, np.uint32(0), np.arange(4))
    groups = number_groups({"a": ViewGroup(2), "b": ViewGroup(3)}, size=8, policy=policy)
    together, apart = jax.jit(
        lambda keys: (
            sample_views(keys, policy, 5),
            [sample_views(keys, g.policy, g.count, g.first) for g in groups.values()],
        )
    )(keys)
    for name, values in together.items():
        both = np.concatenate([drawn[name] for drawn in apart], axis=1)
        np.testing.assert_array_equal(both, values)


@pytest.mark.slow
def test_the_view_log_names_the_first_group_as_if_it_were_alone():
    both = make_pipeline("resident")
    alone = make_pipeline("resident", views={"main": multi_crop.VIEWS["main"]})
    logged, expected = (view_parameters(p.view_job)(0, 2) for p in (both, alone))
    for name, values in expected.items():
        np.testing.assert_array_equal(logged[name], values)
    others = {name for name in logged if name.startswith("local/")}
    assert logged.keys() == expected.keys() | others
    assert logged["local/box"].shape == (2, 16, 3, 4)
    (batch,) = batches(both, 1, 2)
    np.testing.assert_array_equal(logged["local/box"][1] / 8, batch["drawn"]["local"]["crop_box"])


# ---------------------------------------------------------------------------------- images of files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """16 images larger than a view, of several sizes; half of them JPEG."""
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))
    rng, root = np.random.default_rng(0), tmp_path / "images"
    root.mkdir()
    for number in range(16):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
        image = coarse.resize((30 + 6 * number, 90 - 3 * number), PIL.Image.Resampling.BICUBIC)
        image.save(root / f"{number:02}.{'jpg' if number % 2 else 'png'}", quality=95)
    return load_source(str(root), ImageOptions(in_memory=False))


CROPS = {
    "main": ViewGroup(2, policy=only(crop=(1.0,), interpolation="bilinear", dct_scaling=False)),
    "local": ViewGroup(
        3,
        size=5,
        policy=only(crop=(1.0,), crop_area=(0.05, 0.3), interpolation="bilinear"),
        keep=("crop_box",),
    ),
}


@pytest.mark.parametrize("name", ["resident", slow("threads"), "threads-split", slow("tf-split")])
def test_the_box_of_a_batch_is_the_region_that_the_view_shows(folder, name):
    """The box, cropped and resized by Pillow, equals the view."""
    source = tiny.image_source(channels=3) if name == "resident" else folder
    pipeline = make_pipeline(name, source=source, views=CROPS)
    (batch,) = batches(pipeline, 0, 1)
    assert batch["drawn"].keys() == {"local"}
    for row, index in enumerate(batch["index"]):
        image = source.image(int(index))
        height, width = image.shape[:2]
        for view in range(3):
            box = batch["drawn"]["local"]["crop_box"][row, view] * [height, width, height, width]
            top, left, rows, columns = np.rint(box).astype(int)
            np.testing.assert_allclose(box, np.rint(box), atol=1e-4)
            crop = PIL.Image.fromarray(image[top : top + rows, left : left + columns])
            expected = np.asarray(crop.resize((5, 5), PIL.Image.Resampling.BILINEAR), float)
            computed = 255 * batch["views"]["local"][row, view]
            # Pillow rounds after each of its two passes, and the host and 8 bits once more.
            np.testing.assert_allclose(computed, expected, atol=2.0)


@pytest.mark.parametrize(
    ("engine", "kernels"), [("threads", "opencv"), slow("threads", "jax"), slow("tf", "opencv")]
)
def test_an_image_is_decoded_once_for_all_groups(folder, monkeypatch, engine, kernels):
    decoded, image = collections.Counter(), ImageSource.image

    def counting(self, index, *options):
        decoded[index] += 1
        return image(self, index, *options)

    pipeline = make_pipeline(f"{engine}-split", kernels, source=folder, views=CROPS)
    monkeypatch.setattr(ImageSource, "image", counting)
    (batch,) = pipeline.host_batches(0, 1)
    assert decoded == collections.Counter(batch["index"].tolist())


def test_a_jpeg_is_reduced_as_far_as_every_group_allows(folder):
    policy = only(crop=(1.0,), crop_area=(0.3, 1.0))
    groups = {
        "main": SizedGroup(count=2, size=16, policy=policy),
        "local": SizedGroup(count=3, size=5, first=2, policy=policy),
    }
    observed = set()
    for allowed in (True, False):
        groups["main"] = dataclasses.replace(
            groups["main"], policy=dataclasses.replace(policy, dct_scaling=allowed)
        )
        job = ViewJob(
            source=folder, sampler=Sampler(16, 16, seed=0), groups=groups, rows=np.arange(16)
        )
        index, key = job.sampler.draw(0, job.rows)
        halvings, drawn = host_draws.draws(job)(index, key)
        for row, number in enumerate(index):
            fitting = [
                min(box[2:]) >= group.size * 2**n
                for n in range(1, 4)
                for name, group in groups.items()
                for box in drawn[name]["box"][row].tolist()
            ]
            expected = sum(all(fitting[5 * n : 5 * n + 5]) for n in range(3))
            jpeg = folder.names[number].endswith("jpg")
            assert halvings[row] == (expected if jpeg and allowed else 0)
            observed.add(int(halvings[row]))
    assert {0, 1} <= observed


# ---------------------------------------------------------------------------------- pairs, refusals


@pytest.mark.slow
def test_pairs_have_the_groups_and_the_parameters_of_both_sources():
    first = make_pipeline("resident")
    target = {"target": ViewGroup(1, keep=("crop_y",))}
    second = make_pipeline("resident", source=tiny.image_source(60, channels=3), views=target)
    sampler = target_sampler(60, first.sampler)
    pair = PairPipeline.of(first, dataclasses.replace(second, sampler=sampler))
    (batch,), (alone,) = batches(pair, 0, 1), batches(first, 0, 1)
    assert list(pair.groups) == ["main", "local", "target"]
    assert batch["views"]["target"].shape == (16, 1, 8, 8, 3)
    assert batch["drawn"]["target"]["crop_y"].shape == (16, 1)
    for name in SHAPES:
        jax.tree.map(np.testing.assert_array_equal, batch["drawn"][name], alone["drawn"][name])


def test_a_batch_has_no_parameters_unless_a_group_keeps_some():
    plain = {"main": ViewGroup(2)}
    assert "drawn" not in batches(make_pipeline("resident", views=plain), 0, 1)[0]
    host = make_pipeline("threads", views=plain)
    assert next(host.host_batches(0, 1)).keys() == {"views", "index", "key", "label"}


def test_a_parameter_that_is_not_sampled_is_refused_with_those_that_are():
    pipeline = make_pipeline("resident", views={"main": ViewGroup(2, keep=("zoom",))})
    with pytest.raises(UserError, match=r"keeps zoom; keep some of .*crop_box.*, solarize"):
        batches(pipeline, 0, 1)


def test_a_policy_with_too_few_probabilities_is_refused():
    policy = ImagePolicy(blur=(1.0, 0.1))
    with pytest.raises(UserError, match=r"augment\.blur .* group 'local' has 3 views"):
        number_groups({"local": ViewGroup(3)}, size=8, policy=policy)
    number_groups({"main": ViewGroup(1)}, size=8, policy=policy)


@pytest.mark.parametrize(
    ("count", "values", "accepted"),
    [
        (2, (0.5,), True),
        (2, (0.1, 0.9), True),
        (3, (0.1, 0.5, 0.9), True),
        (1, (0.1, 0.9), True),  # a classifier's only view takes the first
        (3, (0.1, 0.9), False),
        (2, (0.1, 0.5, 0.9), False),
    ],
)
def test_a_policy_has_one_probability_for_all_views_or_one_for_each(count, values, accepted):
    policy = dataclasses.replace(POLICY, horizontal_flip=(0.5,), blur=values)
    if accepted:
        number_groups({"main": ViewGroup(count)}, size=8, policy=policy)
        return
    with pytest.raises(UserError, match=rf"group 'main' has {count} views; give one probability"):
        number_groups({"main": ViewGroup(count)}, size=8, policy=policy)
