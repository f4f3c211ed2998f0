"""Augmentation on the host: against the oracles of the device tests and the device's views."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow")

from cssl_jax.augment.image import batched
from cssl_jax.augment.image.policy import PROBABILITIES, sample_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import tf as tf_pipeline
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from helpers.augment_oracles import POLICIES, assert_agree, noise, only, view
from tests.helpers.marks import fast, slow

SIZE = 16
EVERYTHING = POLICIES["everything"]


@pytest.fixture(params=["opencv", slow("jax")])
def kernels(request):
    return request.param


def batches(images, policy=EVERYTHING, batch=8, views=2, **options):
    options.setdefault("kernels", "opencv")
    start, stop = options.pop("start_step", 0), options.pop("stop_step", 1)
    rows = np.arange(batch)[options.pop("rows", slice(None))]
    job = ViewJob(
        source=ArraySource("images", images),
        sampler=Sampler(len(images), batch, seed=5),
        groups={"main": SizedGroup(count=views, size=SIZE, policy=policy)},
        rows=rows,
        **options,
    )
    for batch in tf_pipeline.batches(job, start, stop):
        yield {**batch, "views": batch["views"]["main"]}


def drawn_for(batch, policy):
    draw = jax.jit(sample_views, static_argnames=("policy", "views"))
    return draw(batch["key"], policy, 2)


def oracle_views(images, batch, policy):
    """First view of each row, made by the oracle."""
    drawn = jax.tree.map(np.asarray, drawn_for(batch, policy))
    return [
        view(images[index], {name: v[i, 0] for name, v in drawn.items()}, policy, SIZE)
        for i, index in enumerate(batch["index"])
    ]


@functools.cache
def small_images():
    return noise(20, 12, SIZE, 3)


@pytest.fixture(scope="module")
def reference():
    """Four steps, across the end of an epoch, made one example at a time."""
    return list(batches(small_images(), stop_step=4, parallelism=1))


def assert_same_bits(batches, expected):
    batches = list(batches)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize("name", fast(POLICIES, ["everything", "crop bilinear", "affine"]))
def test_views_match_the_oracle(name, kernels):
    policy = POLICIES[name]
    images = noise(24, SIZE, SIZE, 3)
    (batch,) = batches(images, policy, batch=24, views=1, kernels=kernels)
    assert_agree(batch["views"][:, 0], oracle_views(images, batch, policy))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(7, 10), (45, 31)])
def test_crops_of_any_shape_are_resized_as_pillow_does(shape, interpolation, kernels):
    policy = only(crop=(0.8,), interpolation=interpolation)
    images = noise(12, *shape, 3)
    (batch,) = batches(images, policy, batch=12, views=1, kernels=kernels)
    assert_agree(batch["views"][:, 0], oracle_views(images, batch, policy))


@pytest.mark.parametrize("channels", [slow(1), 3, slow(4)])
def test_views_match_those_of_the_device(channels, kernels):
    images = noise(64, 20, 14, channels)
    (batch,) = batches(images, batch=64, kernels=kernels)
    apply_views = jax.jit(batched.apply_views, static_argnames=("policy", "size"))
    drawn = drawn_for(batch, EVERYTHING)
    on_device = apply_views(images[batch["index"]], drawn, policy=EVERYTHING, size=SIZE)
    assert batch["views"].shape == (64, 2, SIZE, SIZE, channels)
    assert_agree(batch["views"], on_device)


@pytest.mark.parametrize("channels", [slow(1), 3, slow(4)])
def test_the_identity_policy_returns_the_bits_of_the_image(channels, kernels):
    images = noise(8, SIZE, SIZE, channels)
    (batch,) = batches(images, only(), kernels=kernels)
    for v in range(2):
        np.testing.assert_array_equal(batch["views"][:, v], images[batch["index"]])


def test_operations_that_are_off_for_a_view_leave_its_bits_untouched():
    first_only = dict.fromkeys(PROBABILITIES, (1.0, 0.0))
    images = noise(8, SIZE, SIZE, 3)
    (batch,) = batches(images, dataclasses.replace(EVERYTHING, **first_only))
    np.testing.assert_array_equal(batch["views"][:, 1], images[batch["index"]])
    assert np.abs(batch["views"][:, 0] - np.float64(images[batch["index"]])).mean() > 25


def test_index_and_key_are_those_of_the_sampler(reference):
    sampler = Sampler(20, 8, seed=5)
    for step, batch in enumerate(reference):
        index, key = sampler.draw(step, np.arange(8))
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["key"], key)
        assert (batch["index"].dtype, batch["key"].dtype) == (np.int32, np.uint32)
        assert batch["views"].dtype == np.uint8


def test_the_bits_do_not_depend_on_the_parallelism(reference):
    assert_same_bits(batches(small_images(), stop_step=4, parallelism=4), reference)


def test_starting_at_a_step_gives_the_same_batches_as_skipping_to_it(reference):
    assert_same_bits(batches(small_images(), start_step=3, stop_step=4), reference[3:])


@pytest.mark.parametrize("rows", [slice(4, 8), np.array([6, 1, 3])])
def test_rows_are_those_of_the_full_batch(reference, rows):
    expected = [{name: value[rows] for name, value in batch.items()} for batch in reference[:2]]
    assert_same_bits(batches(small_images(), stop_step=2, rows=rows), expected)


def test_an_empty_range_of_steps_gives_no_batches():
    assert list(batches(small_images(), start_step=2, stop_step=2)) == []


def test_closing_early_does_not_affect_the_next_iterator(reference):
    endless = batches(small_images(), stop_step=2**30)
    next(endless)
    endless.close()
    assert list(endless) == []
    assert_same_bits(batches(small_images(), stop_step=4), reference)


def test_under_x64_views_match_the_float64_draws_of_the_device():
    policy = only(crop=(1.0,), jitter=(1.0,))
    images = noise(16, 20, 14, 3)
    with jax.enable_x64(True):
        (batch,) = batches(images, policy, batch=16, views=1)
        assert drawn_for(batch, policy)["hue"].dtype == np.float64
        expected = oracle_views(images, batch, policy)
    assert_agree(batch["views"][:, 0], expected)


def test_a_kernel_too_wide_to_mirror_is_an_error_with_a_way_out():
    with pytest.raises(UserError, match=r"blur_kernel 2\.5 .* use at most 1"):
        next(batches(small_images(), only(blur=(1.0,), blur_kernel=2.5)))
