"""``color_mode="tf"`` against ``tf.image``, operation by operation and in every order."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.augment.image import batched, per_image
from cssl_jax.augment.image.policy import ImagePolicy, sample_views
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError
from cssl_jax.recipes import load, override

POLICY = ImagePolicy(
    color_mode="tf", crop=(0.0,), horizontal_flip=(0.0,), jitter=(1.0,), grayscale=(0.5,),
    blur=(0.0,),
)  # fmt: skip
# Rounding errors of four operations in float32, times the slope of the hue wheel (6).
FLOAT32 = 1e-5
COUNT = 48


@pytest.fixture(scope="module")
def images():
    """Noise in [0, 1] with grey, black, white and fully saturated pixels."""
    x = np.random.default_rng(0).random((COUNT, 8, 8, 3), np.float32)
    x[:, 0, 0] = 0.5
    x[:, 0, 1] = 0.0
    x[:, 0, 2] = 1.0
    x[:, 0, 3] = (1.0, 0.0, 0.0)
    return x


@pytest.fixture(scope="module")
def drawn():
    keys = jnp.asarray(example_key(0, np.uint32(0), np.arange(COUNT)))
    return jax.tree.map(lambda leaf: leaf[:, 0], sample_views(keys, POLICY, 1))


@pytest.fixture(scope="module")
def computed(images, drawn):
    return np.asarray(batched.finish(jnp.asarray(images), drawn, policy=POLICY))


def one(drawn, number):
    return {name: np.asarray(leaf)[number] for name, leaf in drawn.items()}


@pytest.mark.slow
def test_views_are_those_of_tf_image_in_the_order_drawn(images, drawn, computed):
    tf = pytest.importorskip("tensorflow")
    for number in range(COUNT):
        parameters, x = one(drawn, number), tf.constant(images[number])
        operations = [
            lambda y, p=parameters: y * p["brightness"],
            lambda y, p=parameters: tf.image.adjust_contrast(y, p["contrast"]),
            lambda y, p=parameters: tf.image.adjust_saturation(y, p["saturation"]),
            lambda y, p=parameters: tf.image.adjust_hue(y, p["hue"]),
        ]
        for operation in parameters["order"]:
            x = tf.clip_by_value(operations[operation](x), 0.0, 1.0)
        if parameters["grayscale"]:
            x = tf.tile(tf.image.rgb_to_grayscale(x), [1, 1, 3])
        np.testing.assert_allclose(computed[number], x.numpy(), atol=FLOAT32)


@pytest.mark.slow
def test_saturation_is_scaled_in_hsv_and_stops_at_one(images):
    policy = ImagePolicy(color_mode="tf", crop=(0.0,), horizontal_flip=(0.0,), blur=(0.0,))
    neutral = {"brightness": 1.0, "brightness_shift": 0.0, "contrast": 1.0, "hue": 0.0}
    for factor in (0.0, 0.4, 1.7):
        parameters = {name: jnp.full(1, value) for name, value in neutral.items()}
        parameters |= {"saturation": jnp.full(1, factor), "grayscale": jnp.zeros(1, bool)}
        parameters |= {"order": jnp.arange(4)[None]}
        results = np.asarray(batched.finish(jnp.asarray(images[:1]), parameters, policy=policy))[0]
        for pixel, result in zip(images[0].reshape(-1, 3), results.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel.astype(float))
            expected = colorsys.hsv_to_rgb(hue, min(factor * saturation, 1.0), value)
            np.testing.assert_allclose(result, expected, atol=FLOAT32)


def test_contrast_keeps_the_mean_of_each_channel(images):
    parameters = {"contrast": 0.3}
    x = images[:1] * 0.4 + 0.3  # in [0.3, 0.7], so that no value is clipped
    neutral = {"brightness": 1.0, "brightness_shift": 0.0, "saturation": 1.0, "hue": 0.0}
    drawn = {name: jnp.full(1, value) for name, value in {**neutral, **parameters}.items()}
    drawn |= {"order": jnp.arange(4)[None], "grayscale": jnp.zeros(1, bool)}
    for mode, keeps in (("tf", True), ("pillow", False)):
        policy = ImagePolicy(color_mode=mode, crop=(0.0,), horizontal_flip=(0.0,), blur=(0.0,))
        result = np.asarray(batched.finish(jnp.asarray(x), drawn, policy=policy))
        same = np.allclose(result.mean((1, 2)), x.mean((1, 2)), atol=1e-5)
        assert same == keeps


@pytest.mark.slow
def test_per_image_results_match_the_batched_ones(images, drawn, computed):
    finish = jax.jit(lambda x, p: per_image.finish(x, p, policy=POLICY))
    for number in range(COUNT):
        planes = np.moveaxis(images[number], -1, 0)
        alone = np.moveaxis(np.asarray(finish(planes, one(drawn, number))), 0, -1)
        np.testing.assert_allclose(alone, computed[number], atol=FLOAT32)


@pytest.mark.parametrize("name", ["imagenet_resnet50", "cifar10_resnet50", "simclr_tf2_readme"])
def test_recipes_after_the_simclr_code_use_its_colours(name):
    assert load(name).augment.color_mode == "tf"


def test_an_unknown_mode_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"augment\.color_mode is 'pil'; give one of 'pillow', 'tf'"
    ):
        override(load("digits"), {"augment.color_mode": "pil"})
