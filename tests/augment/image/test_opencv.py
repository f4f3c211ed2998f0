"""Views made by OpenCV match those of the device up to rounding, for every operation."""

import dataclasses

import jax
import numpy as np
import pytest

from cssl_jax.augment.image import batched, opencv
from cssl_jax.augment.image.policy import sample_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.pipeline.rendering.render import pack, parameters_of
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource
from helpers.augment_oracles import POLICIES, noise, view
from tests.helpers.marks import slow

SIZE, COUNT = 16, 24
CASES = {**POLICIES, "tf": dataclasses.replace(POLICIES["everything"], color_mode="tf")}


def make_views(policy, channels, shape=(20, 14), size=SIZE):
    """Views by OpenCV (uint8), their images in the same order, keys, and parameter vectors."""
    images = noise(COUNT, *shape, channels)
    job = ViewJob(
        source=ArraySource("noise", images),
        sampler=Sampler(COUNT, COUNT, seed=5),
        groups={"main": SizedGroup(count=2, size=size, policy=policy)},
        rows=np.arange(COUNT),
        kernels="opencv",
    )
    index, keys = job.sampler.draw(0, job.rows)
    halvings, drawn = host_draws.draws(job, pack)(index, keys)
    views = job.empty_views()
    painter.painter(job)(index, halvings, drawn, views)
    return views["main"], images[index], keys, drawn["main"]["vector"]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *((name, 3) if name in ("everything", "tf") else slow(name, 3) for name in CASES),
        *[slow("everything", 1), slow("everything", 4), slow("tf", 1)],
    ],
)
def test_views_match_the_devices_up_to_rounding(name, channels):
    policy = CASES[name]
    views, images, keys, _ = make_views(policy, channels)
    apply_views = jax.jit(batched.apply_views, static_argnames=("policy", "size"))
    on_device = apply_views(images, sample_views(keys, policy, 2), policy=policy, size=SIZE)
    # Rounding to uint8 explains half a grey level, and float32 sums in another order the rest.
    assert np.abs(views - 255 * np.asarray(on_device)).max() < 0.51


@pytest.mark.parametrize("name", ["crop bicubic", "crop bilinear, plain", "hue", "blur"])
def test_views_match_the_oracle(name):
    policy = CASES[name]
    views, images, keys, _ = make_views(policy, 3)
    drawn = jax.tree.map(np.asarray, sample_views(keys, policy, 2))
    for number, image in enumerate(images):
        one = {name: value[number, 0] for name, value in drawn.items()}
        expected = 255 * view(image, one, policy, SIZE)
        assert np.abs(views[number, 0] - expected).max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 10), (45, 31), (16, 40)])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_images_smaller_and_larger_than_a_view(shape, kernel, antialias):
    policy = dataclasses.replace(
        CASES["crop bicubic"], interpolation=kernel, antialias=antialias, crop_area=(0.3, 1.0)
    )
    views, images, keys, _ = make_views(policy, 3, shape)
    drawn = sample_views(keys, policy, 2)
    on_device = batched.apply_views(images, drawn, policy=policy, size=SIZE)
    assert np.abs(views - 255 * np.asarray(on_device)).max() < 0.51


def test_parameters_are_recovered_from_their_vector():
    policy = CASES["everything"]
    _, _, keys, parameter_vectors = make_views(policy, 3)
    drawn = jax.tree.map(np.asarray, sample_views(keys, policy, 2))
    recovered = parameters_of(policy)(parameter_vectors[3, 1])
    assert recovered.keys() == drawn.keys()
    for name, value in recovered.items():
        np.testing.assert_array_equal(value, drawn[name][3, 1].astype(np.float32))


def test_jax_makes_the_views_that_opencv_cannot_compute_exactly(monkeypatch):
    affine = CASES["affine"]
    assert painter.kernels(affine, 3, whole=True) == "opencv"
    assert painter.kernels(affine, 5, whole=True) == "jax"
    monkeypatch.setattr(opencv, "EXACT_AFFINE", False)
    assert painter.kernels(affine, 3, whole=True) == "jax"
    assert painter.kernels(affine, 3, whole=False) == "opencv"
