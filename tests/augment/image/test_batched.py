"""Augmentation on the device, against Pillow, SciPy, colorsys and float64 formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest

from cssl_jax.augment.image import batched, geometry
from cssl_jax.augment.image.policy import PROBABILITIES, ImagePolicy, sample_views
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError
from helpers.augment_oracles import LARGEST, POLICIES, assert_agree, crop_box, noise, only, view
from tests.helpers.marks import slow

SIZE = 16

# float32 against float64 in [0, 1]: a few rounding errors of 6e-8 per operation, times the slope of
# the hue wheel (6) and of noise under coordinates that are off by 1e-6 pixels.
FLOAT32 = 2e-5


def keys(n, seed=0):
    return jnp.asarray(example_key(seed, np.uint32(0), np.arange(n)))


def drawn_for(policy, n, view=0):
    draw = jax.jit(sample_views, static_argnames=("policy", "views"))
    return jax.tree.map(lambda x: x[:, view], draw(keys(n), policy, 2))


def row(drawn, i):
    return {name: np.asarray(value)[i] for name, value in drawn.items()}


def applied(images, drawn, policy, size=SIZE):
    return np.asarray(
        jax.jit(batched.apply, static_argnames=("policy", "size"))(
            images, drawn, policy=policy, size=size
        )
    )


def pair(images, policy, size=SIZE):
    """Views made on the device, and the views of the oracle."""
    drawn = drawn_for(policy, len(images))
    expected = [view(p, row(drawn, i), policy, size) for i, p in enumerate(images)]
    return applied(images, drawn, policy, size), expected


@pytest.mark.parametrize("name", POLICIES)
def test_views_match_the_oracle(name):
    assert_agree(*pair(noise(24, SIZE, SIZE, 3), POLICIES[name]), FLOAT32, FLOAT32)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(7, 10), slow((45, 31)), slow((40, 12))])
def test_crops_of_any_shape_are_resized_as_pillow_does(shape, interpolation):
    policy = only(crop=(1.0,), interpolation=interpolation)
    assert_agree(*pair(noise(12, *shape, 3), policy), FLOAT32, FLOAT32)


@pytest.mark.parametrize("shape", [(7, 10), (45, 31)])
def test_without_a_crop_the_centre_square_is_resized(shape):
    assert_agree(*pair(noise(2, *shape, 3), only()), FLOAT32, FLOAT32)


@pytest.mark.parametrize("channels", [1, slow(4)])
def test_images_that_are_not_rgb_pass_everything_but_the_colour_operations(channels):
    images = noise(12, 13, SIZE, channels)
    assert_agree(*pair(images, POLICIES["everything"]), FLOAT32, FLOAT32)


@pytest.mark.parametrize("channels", [slow(1), 3, slow(4)])
def test_the_identity_policy_returns_the_image(channels):
    images = noise(2, SIZE, SIZE, channels)
    drawn = drawn_for(only(), 2)
    x = applied(images, drawn, only())
    # The compiler may replace the division by 255 by a product, which changes the last bit.
    np.testing.assert_allclose(x, images / 255, rtol=0, atol=1.2e-7)


def test_operations_that_are_off_for_a_view_leave_its_image_untouched():
    first_only = dict.fromkeys(PROBABILITIES, (1.0, 0.0))
    policy = dataclasses.replace(POLICIES["everything"], **first_only)
    images = noise(4, SIZE, SIZE, 3)
    first, second = (applied(images, drawn_for(policy, 4, view=v), policy) for v in (0, 1))
    # Four conversions to the hue wheel and back leave rounding errors.
    np.testing.assert_allclose(second, images / 255, atol=1e-6, rtol=0)
    assert np.abs(first - second).mean() > 0.1


def test_brightness_contrast_and_saturation_are_pillows():
    enhancers = {
        "brightness": PIL.ImageEnhance.Brightness,
        "contrast": PIL.ImageEnhance.Contrast,
        "saturation": PIL.ImageEnhance.Color,
    }
    images = noise(8, SIZE, SIZE, 3)
    for name, enhancer in enhancers.items():
        drawn = drawn_for(POLICIES[name], 8)
        expected = [
            np.asarray(enhancer(PIL.Image.fromarray(p)).enhance(float(f))) / 255
            for p, f in zip(images, drawn[name], strict=True)
        ]
        # Pillow truncates the blend to 8 bits (half a level on average) and rounds the grey
        # image or its mean to 8 bits first.
        assert_agree(applied(images, drawn, POLICIES[name]), expected, LARGEST, 1 / 255)


def test_grayscale_is_pillows():
    images = noise(8, SIZE, SIZE, 3)
    expected = [np.asarray(PIL.Image.fromarray(p).convert("L"))[..., None] / 255 for p in images]
    # Pillow rounds the grey value to 8 bits.
    policy = POLICIES["grayscale"]
    assert_agree(applied(images, drawn_for(policy, 8), policy), expected, 0.51 / 255)


def test_solarize_is_pillows():
    images = noise(8, SIZE, SIZE, 3)
    expected = [np.asarray(PIL.ImageOps.solarize(PIL.Image.fromarray(p))) / 255 for p in images]
    policy = POLICIES["solarize"]
    assert_agree(applied(images, drawn_for(policy, 8), policy), expected, 1e-7, 1e-7)


def test_a_crop_and_resize_in_eight_bits_is_pillows():
    # A smooth image: on noise, Pillow's 8-bit mode clips the overshoot between its two passes.
    wave = np.sin(np.arange(40)[:, None, None] / 5 + np.arange(30)[None, :, None] / 4)
    image = np.uint8(100 + 80 * np.repeat(wave, 3, -1))
    policy = only(crop=(1.0,))
    drawn = drawn_for(policy, 8)
    expected = []
    for i in range(8):
        top, left, height, width = crop_box(row(drawn, i), 40, 30, policy)
        cut = PIL.Image.fromarray(image).crop((left, top, left + width, top + height))
        expected.append(np.asarray(cut.resize((SIZE, SIZE), PIL.Image.BICUBIC)) / 255)
    images = np.repeat(image[None], 8, 0)
    # Two roundings to 8 bits, one per pass.
    assert_agree(applied(images, drawn, policy), expected, LARGEST, 0.5 / 255)


def neutral(**changes):
    drawn = {k: v[0] for k, v in drawn_for(only(), 1).items()}
    return jax.tree.map(
        lambda x: x[None], {**drawn, **{k: jnp.asarray(v) for k, v in changes.items()}}
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rotation": np.float32(np.pi / 2)}, lambda x: np.rot90(x)),  # counter-clockwise
        ({"translation": np.float32([0.25, 0.0])}, lambda x: np.pad(x, ((4, 0), (0, 0)))[:-4]),
        ({"translation": np.float32([0.0, 0.25])}, lambda x: np.pad(x, ((0, 0), (4, 0)))[:, :-4]),
        ({"scaling": np.float32(3.0)}, None),
        ({"shear": np.float32(np.pi / 4)}, None),
    ],
)
def test_affine_maps_go_the_documented_way(change, expected):
    size = 16 if expected else 15  # with an odd side, the centre of the image is a pixel centre
    policy = only(affine=(1.0,))
    image = noise(1, size, size, 1)
    x = applied(image, neutral(**change), policy, size)[0, ..., 0] * 255
    image = image[0, ..., 0]
    if expected:
        np.testing.assert_allclose(x, expected(image), atol=0.01)
    elif "scaling" in change:  # zoom 3: every third pixel is a pixel of the middle third
        np.testing.assert_allclose(x[1::3, 1::3], image[5:10, 5:10], atol=0.01)
    else:  # shear of 45 degrees: each row moves right by its distance below the centre
        for y in range(size):
            moved = y - 7
            row_ = np.pad(image[y], abs(moved))[abs(moved) - moved :][:size]
            np.testing.assert_allclose(x[y], row_, atol=0.01)


def test_an_affine_map_fills_with_the_policys_value():
    policy = only(affine=(1.0,), fill=0.25)
    gone = applied(noise(1, SIZE, SIZE, 3), neutral(translation=np.float32([2.0, 0.0])), policy)
    np.testing.assert_allclose(gone, 0.25, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (1, 40), (40, 3), (7, 5), (375, 500)])
def test_crop_boxes_lie_inside_the_image_and_follow_torchvisions_rule(shape):
    policy = ImagePolicy(crop=(0.9,))
    drawn = drawn_for(policy, 300)
    boxes = np.stack(geometry.crop_box(drawn, *shape, policy=policy), -1)
    top, left, height, width = boxes.T
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= shape[0]).all()
    assert (left + width <= shape[1]).all()
    expected = [crop_box(row(drawn, i), *shape, policy) for i in range(300)]
    np.testing.assert_array_equal(boxes, expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((100, 10), (43, 0, 13, 10)),  # 10 / (3 / 4) = 13.3 high, (100 - 13) // 2 = 43 down
        ((10, 100), (0, 43, 10, 13)),  # 10 * (4 / 3) = 13.3 wide
        ((10, 12), (0, 0, 10, 12)),  # an allowed aspect ratio: the entire image
    ],
)
def test_where_no_candidate_fits_the_largest_allowed_centred_box_is_taken(shape, expected):
    policy = ImagePolicy(crop_area=(1.0, 1.0))
    drawn = neutral(crop=True, crop_log_ratio=np.full(10, np.log(3 / 4), np.float32))
    drawn["crop_area"] = jnp.ones((1, 10))
    box = geometry.crop_box(drawn, *shape, policy=policy)
    assert tuple(int(v[0]) for v in box) == expected


def test_the_largest_drawn_position_stays_inside():
    drawn = neutral(crop=True, crop_y=np.float32(1 - 2**-24), crop_x=np.float32(1 - 2**-24))
    drawn["crop_area"] = jnp.full((1, 10), 0.25)
    drawn["crop_log_ratio"] = jnp.zeros((1, 10))
    box = geometry.crop_box(drawn, 64, 64, policy=ImagePolicy())
    assert tuple(int(v[0]) for v in box) == (32, 32, 32, 32)


def test_a_box_covers_the_same_fraction_of_an_image_of_any_size():
    # Up to half the area, every candidate fits. Above, rounding to pixels may decide which fit.
    policy = ImagePolicy(crop_area=(0.08, 0.5))
    drawn = drawn_for(policy, 300)
    small = np.stack(geometry.crop_box(drawn, 100, 120, policy=policy), -1)
    large = np.stack(geometry.crop_box(drawn, 1000, 1200, policy=policy), -1)
    # Rounding to pixels of the small image: half a pixel in the size, 1.5 in the position.
    assert np.abs(large / 10 - small).max() <= 1.5


@pytest.mark.slow
def test_the_views_of_apply_views_are_those_of_apply():
    policy = POLICIES["everything"]
    images = noise(3, 12, 20, 3)
    drawn = sample_views(keys(3), policy, 2)
    apply_views = jax.jit(batched.apply_views, static_argnames=("policy", "size"))
    both = apply_views(images, drawn, policy=policy, size=SIZE)
    assert both.shape == (3, 2, SIZE, SIZE, 3)
    for v in range(2):
        single = applied(images, jax.tree.map(lambda x, v=v: x[:, v], drawn), policy)
        np.testing.assert_allclose(both[:, v], single, atol=FLOAT32)


def test_an_image_does_not_depend_on_its_neighbours():
    policy = POLICIES["everything"]
    images = noise(4, SIZE, SIZE, 3)
    drawn = drawn_for(policy, 4)
    alone = applied(images[2:3], jax.tree.map(lambda x: x[2:3], drawn), policy)
    np.testing.assert_allclose(applied(images, drawn, policy)[2:3], alone, atol=FLOAT32)


def test_floating_images_in_0_1_are_not_rescaled():
    policy = POLICIES["everything"]
    images = noise(2, SIZE, SIZE, 3)
    drawn = drawn_for(policy, 2)
    floats = applied(np.float32(images) / 255, drawn, policy)
    np.testing.assert_allclose(floats, applied(images, drawn, policy), atol=FLOAT32)


def test_the_blur_kernel_is_the_papers_tenth_of_the_side():
    assert batched.blur_radius(ImagePolicy(), 224) == 11  # 23 taps
    assert batched.blur_radius(ImagePolicy(), 32) == 1
    with pytest.raises(UserError, match=r"blur_kernel 2.5"):
        batched.blur_radius(ImagePolicy(blur_kernel=2.5), 32)


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    x = batched.normalize(jnp.asarray([[0.5, 1.0]]), (0.25, 0.5), (0.5, 0.25))
    np.testing.assert_allclose(x, [[0.5, 2.0]])
