import dataclasses

import jax
import numpy as np
import PIL.Image
import pytest

from cssl_jax.augment.image.geometry import crop_box
from cssl_jax.augment.image.policy import PROBABILITIES, ImagePolicy, sample
from cssl_jax.data.view_log.parameters import view_parameters
from helpers import tiny
from tests.helpers.marks import slow


def test_parameters_are_those_drawn_from_the_key_of_each_example():
    config = tiny.replace(tiny.config(), "augment", affine=(0.5,), rotation=30.0)
    run = tiny.Run(config)
    drawn = view_parameters(run.pipeline.view_job)(2, 5)
    assert drawn["step"].tolist() == [2, 3, 4]
    for s, step in enumerate(range(2, 5)):
        index, keys = run.sampler.draw(step, np.arange(16))
        np.testing.assert_array_equal(drawn["index"][s], index)
        np.testing.assert_array_equal(drawn["key"][s], keys)
        for row, view in ((0, 0), (7, 1), (15, 1)):
            one = jax.device_get(sample(keys[row], config.augment, view))
            box = crop_box(one, 8, 8, policy=config.augment)
            np.testing.assert_array_equal(drawn["box"][s, row, view], np.stack(box))
            for name in ("rotation", "brightness", "order", "blur_sigma", "solarize"):
                # Compiled against uncompiled code: the last bit of a float32 may differ.
                np.testing.assert_allclose(drawn[name][s, row, view], one[name], rtol=1e-6)


def test_the_parameters_of_a_step_do_not_depend_on_the_requested_range():
    draw = view_parameters(tiny.Run(tiny.config()).pipeline.view_job)
    alone, among = draw(4, 5), draw(0, 6)
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], among[name][4])


@pytest.mark.parametrize("pipeline", ["resident", slow("threads")])
def test_a_box_is_the_region_of_the_image_that_the_view_shows(pipeline):
    """The box, cropped and resized by Pillow, equals the view of the pipeline."""
    off = dict.fromkeys(PROBABILITIES, (0.0,))
    policy = ImagePolicy(**{**off, "crop": (1.0,)}, interpolation="bilinear")
    config = dataclasses.replace(tiny.config(), augment=policy)
    config = tiny.replace(config, "data", normalize="unit", size=8)
    run = tiny.Run(config, pipeline=pipeline)
    drawn = view_parameters(run.pipeline.view_job)(1, 2)
    (host_batch,) = run.pipeline.host_batches(1, 2)
    views = jax.jit(run.pipeline.make_batch)(np.int32(1), run.pipeline.constants, host_batch)[
        "views"
    ]
    for row in range(16):
        image = run.pipeline.source.image(drawn["index"][0, row])[..., 0].astype(np.float32)
        for view in range(2):
            top, left, height, width = drawn["box"][0, row, view]
            crop = PIL.Image.fromarray(image[top : top + height, left : left + width])
            expected = np.asarray(crop.resize((8, 8), PIL.Image.Resampling.BILINEAR))
            computed = 255 * np.asarray(views["main"][row, view, ..., 0])
            np.testing.assert_allclose(computed, expected, atol=1.0)  # the host rounds to uint8
