import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.augment.image import batched as image
from cssl_jax.augment.image import describe, geometry
from cssl_jax.augment.image.policy import ImagePolicy, sample
from tests.helpers.marks import slow

NEUTRAL = {
    "box": np.array([0, 0, 20, 30]),
    "crop": True,
    **dict.fromkeys(("horizontal_flip", "vertical_flip", "grayscale", "solarize"), False),
    **dict.fromkeys(("brightness", "contrast", "saturation", "scaling"), np.float32(1)),
    **dict.fromkeys(("rotation", "shear", "brightness_shift", "hue", "blur_sigma"), np.float32(0)),
    "translation": np.zeros(2, np.float32),
    "order": np.array([3, 1, 0, 2]),
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["unchanged"]),
        ({"box": np.array([2, 5, 10, 15])}, ["crop 15 x 10 at 5, 2 (25 %)"]),
        ({"box": np.array([0, 5, 20, 20]), "crop": False}, ["centre 20 x 20 at 5, 0 (67 %)"]),
        ({"horizontal_flip": True, "grayscale": True}, ["flipped left-right", "grey"]),
        ({"vertical_flip": True, "solarize": True}, ["flipped top-bottom", "solarised from 0.5"]),
        ({"rotation": np.radians(12.0), "shear": -0.1}, ["turned 12° left, sheared -6°"]),
        ({"rotation": np.radians(-3.0), "scaling": 0.8}, ["turned 3° right, zoomed x0.80"]),
        ({"translation": np.array([0.1, -0.05])}, ["shifted 5 % left, 10 % down"]),
        ({"translation": np.array([-0.1, 0.0])}, ["shifted 10 % up"]),
        ({"brightness": 1.2, "contrast": 0.5}, ["contrast x0.50, brightness x1.20"]),
        (
            {"brightness": 0.9, "contrast": 0.5, "saturation": 1.4, "hue": -0.07},
            ["hue -0.07, contrast x0.50, brightness x0.90, saturation x1.40"],
        ),
        ({"brightness_shift": -0.1, "hue": 0.2}, ["hue +0.20, brightness -0.10"]),
        ({"hue": -0.001, "saturation": 1.001}, ["unchanged"]),
        ({"blur_sigma": 1.234}, ["blur, sigma 1.23 px"]),
    ],
)
def test_applied_operations_are_described_in_order(values, expected):
    assert describe.describe({**NEUTRAL, **values}, 20, 30, 3, policy=ImagePolicy()) == expected


def test_colour_operations_are_not_described_for_grey_images():
    one = {**NEUTRAL, "hue": 0.1, "saturation": 0.5, "contrast": 0.8, "grayscale": True}
    assert describe.describe(one, 20, 30, 1, policy=ImagePolicy()) == ["contrast x0.80"]


@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 6))])
def test_an_outline_is_the_region_that_the_view_shows(seed):
    """In a view of a ramp, each value encodes the position of the original that it shows."""
    height, width, size = 90, 120, 32
    policy = ImagePolicy(
        crop_area=(0.4, 0.9),
        interpolation="bilinear",
        vertical_flip=(0.5,),
        affine=(1.0,),
        rotation=20.0,
        translation=0.1,
        scaling=(0.8, 1.25),
        shear=10.0,
        jitter=(0.0,),
        grayscale=(0.0,),
        blur=(0.0,),
    )
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([x / width, y / height, np.ones((height, width))], -1).astype(np.float32)
    key = np.array([seed, 7], np.uint32)
    one = jax.device_get(sample(key, policy))
    one["box"] = np.stack(geometry.crop_box(one, height, width, policy=policy))
    batched = jax.tree.map(lambda value: jnp.asarray(value)[None], one)
    view = np.asarray(image.apply(ramp[None], batched, policy=policy, size=size))[0]
    # The third channel is 1 inside the image: excludes the fill. Also excludes the crop's border.
    rows, columns = np.nonzero(view[3:-3, 3:-3, 2] > 0.9999)
    rows, columns = rows + 3, columns + 3
    shown = view[rows, columns, :2] * (width, height)
    grid = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)], -1)
    # The outermost pixels of a crop repeat the border, so the ramp is flat there. A second fit
    # excludes them.
    fitted = np.linalg.lstsq(grid, shown, rcond=None)[0]
    error = np.abs(grid @ fitted - shown).max(-1)
    fitted = np.linalg.lstsq(grid[error < 0.2], shown[error < 0.2], rcond=None)[0]
    corners = np.array([(0, 0, 1), (size, 0, 1), (size, size, 1), (0, size, 1)]) @ fitted
    outline = describe.outline(one, size=size, policy=policy)
    np.testing.assert_allclose(outline, corners, atol=0.5)  # pixels; the image is 120 pixels wide


def test_without_an_affine_map_the_outline_is_the_box():
    one = {**NEUTRAL, "box": np.array([2, 5, 10, 15]), "horizontal_flip": True}
    corners = describe.outline(one, size=8, policy=ImagePolicy())
    assert sorted(map(tuple, corners)) == [(5, 2), (5, 12), (20, 2), (20, 12)]
