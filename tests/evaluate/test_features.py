"""Raw-pixel features, test-time preprocessing, and the compiled encoder on several devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.evaluate.encoders.features import make_embed
from cssl_jax.modalities.image import prepare
from cssl_jax.modalities.pixels import area_matrix, pixels
from cssl_jax.models.resnet import BasicBlock, ResNet
from cssl_jax.runtime import spmd

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SPEC = ImageSpec(8, 3, MEAN, STD)


def of(images):
    return ArraySource("images", images)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def pillow_resize(image, height, width, resample):
    """Resize per channel in floating point, which Pillow does not round to whole levels."""
    channels = [
        np.asarray(PIL.Image.fromarray(channel).resize((width, height), resample))
        for channel in np.moveaxis(image.astype(np.float32), -1, 0)
    ]
    return np.stack(channels, axis=-1) / 255


def area_mean(image, out_height, out_width):
    """Exact area resize: every pixel is repeated until the averaged blocks are whole."""
    height, width, channels = image.shape
    fine = np.repeat(np.repeat(image / 255.0, out_height, axis=0), out_width, axis=1)
    return fine.reshape(out_height, height, out_width, width, channels).mean(axis=(1, 3))


class Pooling(nn.Module):
    """A minimal encoder: a linear map of the mean colour and of one corner."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        assert not train
        kernel = self.param("kernel", nn.initializers.normal(1.0), (6, 5))
        summary = jnp.concatenate([x.mean(axis=(1, 2)), x[:, 0, 0]], axis=-1)
        highest = jax.lax.Precision.HIGHEST
        return {"features": jnp.matmul(summary, kernel, precision=highest).astype(self.dtype)}


KERNEL = np.random.default_rng(9).normal(size=(6, 5)).astype(np.float32)
VARIABLES = {"params": {"kernel": KERNEL}}


def numpy_pooling(images):
    x = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    return np.concatenate([x.mean(axis=(1, 2)), x[:, 0, 0]], axis=-1) @ KERNEL.astype(np.float64)


def mesh(devices):
    return spmd.make_mesh(jax.devices()[:devices])


def test_input_of_the_right_size_is_only_normalised():
    images = noise(3, 8, 8, 3)
    x = prepare({"image": jnp.asarray(images)}, SPEC)
    assert x.dtype == jnp.float32
    # Three roundings of 6e-8 on values up to 4.
    np.testing.assert_allclose(x, (images / 255.0 - MEAN) / np.array(STD), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 16), (23, 40), (40, 23), (31, 8), (5, 6)])
def test_other_input_is_pillows_bilinear_resize_of_the_centre_square(shape):
    height, width = shape
    images = noise(2, height, width, 3)
    side = min(shape)
    # If the margin is odd, the smaller half is above and to the left.
    top, left = (height - side) // 2, (width - side) // 2
    expected = [
        pillow_resize(
            image[top : top + side, left : left + side], 8, 8, PIL.Image.Resampling.BILINEAR
        )
        for image in images
    ]
    x = prepare({"image": jnp.asarray(images)}, SPEC)
    # float32 weights and sums of values up to 1, over the smallest std 0.2.
    np.testing.assert_allclose(x, (np.array(expected) - MEAN) / np.array(STD), atol=1e-5)


def test_what_lies_outside_the_centre_square_is_not_seen():
    images = noise(2, 12, 30, 3)
    changed = images.copy()
    changed[:, :, :9], changed[:, :, 21:] = 0, 255
    np.testing.assert_array_equal(
        prepare({"image": jnp.asarray(images)}, SPEC),
        prepare({"image": jnp.asarray(changed)}, SPEC),
    )


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 16, 21])
def test_every_image_gets_its_features_on_any_number_of_devices(devices, count):
    # A batch of 10 does not divide over 3 or 8 devices, and the last batch is never full.
    embed = make_embed(Pooling(), mesh(devices), SPEC, batch_size=10)
    images = noise(count, 8, 8, 3)
    features = embed(VARIABLES, of(images))
    assert features.shape == (count, 5)
    assert features.dtype == np.float32
    # Sums of six float32 products of size 10.
    np.testing.assert_allclose(features, numpy_pooling(images), atol=1e-5)


def test_features_are_float32_on_the_host_when_the_encoder_computes_in_bfloat16():
    embed = make_embed(Pooling(jnp.bfloat16), mesh(1), SPEC, batch_size=8)
    images = noise(3, 8, 8, 3)
    features = embed(VARIABLES, of(images))
    assert isinstance(features, np.ndarray)
    assert features.dtype == np.float32
    # bfloat16 keeps 8 bits: half a unit in the last place is 1 part in 256.
    np.testing.assert_allclose(features, numpy_pooling(images), rtol=2**-8, atol=1e-5)


def test_new_weights_are_used_without_a_new_encoder():
    embed = make_embed(Pooling(), mesh(1), SPEC, batch_size=8)
    images = noise(3, 8, 8, 3)
    embed(VARIABLES, of(images))
    doubled = embed({"params": {"kernel": 2 * KERNEL}}, of(images))
    np.testing.assert_allclose(doubled, 2 * numpy_pooling(images), atol=2e-5)


def test_padding_and_neighbours_do_not_reach_an_image_through_batch_norm():
    encoder = ResNet((1,), BasicBlock, width=1 / 8, stem="cifar")
    images = noise(11, 8, 8, 3)
    shown = prepare({"image": jnp.asarray(images)}, SPEC)
    variables = jax.jit(encoder.init, static_argnames="train")(
        jax.random.key(0), shown, train=False
    )
    rng = np.random.default_rng(0)
    # The running statistics differ from the batch's, so that confusing them changes the result.
    statistics = jax.tree.map(
        lambda s: rng.uniform(0.5, 2.0, s.shape).astype(np.float32), variables["batch_stats"]
    )
    variables = {"params": variables["params"], "batch_stats": statistics}
    many = make_embed(encoder, mesh(8), SPEC, batch_size=8)(variables, of(images))
    one = make_embed(encoder, mesh(1), SPEC, batch_size=1)
    alone = np.concatenate([one(variables, of(image[None])) for image in images])
    # The order of float32 sums may differ with the batch.
    np.testing.assert_allclose(many, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())
    assert np.abs(many[0] - many[1]).max() > 1e-3 * np.abs(many).max()


@pytest.mark.parametrize("shape", [(64, 64, 3), (96, 64, 1), (128, 32, 3)])
def test_pixels_are_pillows_box_resize_where_the_reduction_is_whole(shape):
    images = noise(3, *shape)
    expected = [pillow_resize(image, 32, 32, PIL.Image.Resampling.BOX) for image in images]
    features = pixels(of(images))
    assert features.dtype == np.float32
    # float32 means of values up to 1, and Pillow's float32 result.
    np.testing.assert_allclose(features, np.reshape(expected, (3, -1)), atol=1e-6)


@pytest.mark.parametrize("shape", [(33, 50, 1), (45, 20, 3), (100, 33, 2)])
def test_pixels_are_area_means_where_the_reduction_is_not_whole(shape):
    images = noise(2, *shape)
    expected = [area_mean(image, min(shape[0], 32), min(shape[1], 32)) for image in images]
    np.testing.assert_allclose(pixels(of(images)), np.reshape(expected, (2, -1)), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (1, 31, 2)])
def test_small_images_stay_as_they_are(shape):
    images = noise(5, *shape)
    np.testing.assert_array_equal(pixels(of(images)), (images / np.float32(255)).reshape(5, -1))


def test_pixels_come_in_the_order_of_the_images_across_blocks():
    images = noise(2100, 3, 40, 1)
    some = np.array([0, 1023, 1024, 2047, 2048, 2099])
    # Matrix products of another size may sum in another order.
    np.testing.assert_allclose(pixels(of(images))[some], pixels(of(images[some])), atol=1e-6)


@pytest.mark.parametrize(("in_size", "out_size"), [(7, 7), (64, 32), (33, 32), (100, 7), (5, 1)])
def test_area_weights_share_every_input_pixel_out_once(in_size, out_size):
    weights = area_matrix(in_size, out_size)
    assert weights.shape == (out_size, in_size)
    assert weights.dtype == np.float32
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=0), out_size / in_size, atol=1e-6)
