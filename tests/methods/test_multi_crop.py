"""A method with two view groups of different sizes trains alike on any devices."""

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.methods.registry import METHODS
from cssl_jax.planning import shapes
from helpers import multi_crop, tiny
from helpers.comparison import largest_difference
from tests.helpers.marks import fast

METHODS |= {"multi_crop": multi_crop.MULTI_CROP}
MICRO_BATCH = 8
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1


def config(*, micro_batch=0, norm_group=0, **data):
    changed = tiny.replace(tiny.config(micro_batch=micro_batch), "method", name="multi_crop")
    changed = tiny.replace(changed, "data", **data)
    return tiny.replace(changed, "model", norm_group=norm_group)


def trained(devices, *, micro_batch=0, pipeline="resident"):
    """(losses, state) after 3 steps in float64, with norm groups as large as micro-batches."""
    changed = config(micro_batch=micro_batch, norm_group=0 if micro_batch else MICRO_BATCH)
    with jax.enable_x64(True):
        return tiny.Run(changed, devices, pipeline=pipeline).train(3, np.float64)


@pytest.fixture(scope="module")
def one_device():
    return trained(1)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "micro_batch"), [(4, 0), (1, MICRO_BATCH), (4, MICRO_BATCH)])
def test_float64_training_does_not_depend_on_devices_or_micro_batches(
    one_device, devices, micro_batch
):
    losses, state = trained(devices, micro_batch=micro_batch)
    np.testing.assert_allclose(losses, one_device[0], rtol=FLOAT64_BOUND)
    assert largest_difference(state.params, one_device[1].params) < FLOAT64_BOUND
    assert largest_difference(state.model_state, one_device[1].model_state) < FLOAT64_BOUND


@pytest.mark.slow
def test_local_views_and_their_boxes_enter_the_loss(one_device, monkeypatch):
    objective = multi_crop.MultiCrop.objective

    def mutant(self, params, method_state, outputs, examples, ctx):
        drawn = jax.tree.map(lambda x: 0 * x, examples["drawn"])
        return objective(self, params, method_state, outputs, {**examples, "drawn": drawn}, ctx)

    monkeypatch.setattr(multi_crop.MultiCrop, "objective", mutant)
    losses, _ = trained(1)
    assert np.all(losses < one_device[0][: len(losses)] - 1e-4)


@pytest.mark.parametrize("pipeline", fast(["resident", "threads", "threads-split"], ["threads"]))
def test_a_plan_knows_the_shapes_of_every_group(pipeline):
    images = {"image": jax.ShapeDtypeStruct((48, 8, 8, 1), np.uint8)}
    spec = ImageSpec(8, 1, (0.5,), (0.25,))
    given = shapes.DataShapes(spec, pipeline, images, "generated")
    planned = shapes.abstract_step(config(), shapes.abstract_mesh(2), given)
    run = tiny.Run(config(), 2, pipeline=pipeline)
    host_batch = next(run.pipeline.host_batches(0, 1))
    host_batch.pop("label", None)
    as_shapes = jax.tree.map(lambda x: (x.shape, x.dtype), host_batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), planned.host_batch) == as_shapes


@pytest.mark.slow
@pytest.mark.parametrize("placement", [{}, {"augment_on": "split", "engine": "threads"}])
def test_the_sheet_and_the_measurement_of_views_cover_every_group(tmp_path, placement):
    source = tiny.image_source(60, channels=3)
    np.savez(tmp_path / "images.npz", images=source.images, labels=source.labels)
    changed = config(source=str(tmp_path / "images.npz"), **placement)
    sheet = cssl_jax.draw_views(changed, examples=2)
    two = cssl_jax.draw_views(tiny.replace(changed, "method", name="simclr"), examples=2)
    assert sheet.width > 1.5 * two.width  # five views and an image instead of two
    report = str(cssl_jax.bench_input(changed, seconds=0.01))
    assert "2 views of 8 px each and 3 views of 5 px each" in report
    assert cssl_jax.load_views(changed, 0, 1)["local/box"].shape == (1, 16, 3, 4)
