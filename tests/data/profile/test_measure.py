"""Profile of the input: the measured stages, the limiting one, and the advice."""

import dataclasses
import time

import jax
import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.cli import main as cli
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.profile import measure
from cssl_jax.data.profile import result as profile_result
from cssl_jax.errors import UserError
from cssl_jax.experiment import input_pipeline
from cssl_jax.runtime import spmd
from helpers import tiny
from tests.helpers.marks import fast

PLACEMENTS = {
    "resident": {},
    "stream": {"resident": False},
    "tf": {"augment_on": "host", "engine": "tf"},
    "tf-split": {"augment_on": "split", "engine": "tf"},
    "threads": {"augment_on": "host", "engine": "threads"},
    "threads-split": {"augment_on": "split", "engine": "threads"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder of twenty JPEGs with two sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (20 + number % 2, 24, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number:02}.jpg", quality=90)
    return folder


def config(**data):
    on_one_device = tiny.replace(tiny.config(batch_size=8), "runtime", devices=1)
    return tiny.replace(on_one_device, "data", **data)


def names(report):
    return [(stage.name, stage.side) for stage in report.measured.stages]


ON_DEVICE = [("crop + resize", "device"), ("augment", "device")]
MEASURED = {
    "resident": ON_DEVICE,
    "stream": [("gather", "host"), ("transfer", "transfer"), *ON_DEVICE],
    "tf": [("crop + resize", "host"), ("augment", "host"), ("transfer", "transfer"),
           ("normalise", "device")],
    "tf-split": [("crop + resize", "host"), ("transfer", "transfer"), ("augment", "device")],
}  # fmt: skip


@pytest.mark.parametrize("placement", fast(PLACEMENTS, ["resident"]))
def test_every_placement_of_arrays_is_divided_into_stages(placement):
    report = cssl_jax.bench_input(config(**PLACEMENTS[placement]), seconds=0.01)
    assert report.reason.startswith(f"{placement}: ")
    assert names(report) == MEASURED[placement.replace("threads", "tf")]
    assert report.measured.whole > 0


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["tf", "threads-split"])
def test_photos_have_stages_for_reading_and_decoding(photos, placement):
    options = {"source": str(photos), "size": 8, **PLACEMENTS[placement]}
    report = cssl_jax.bench_input(config(**options), seconds=0.01)
    assert names(report)[:2] == [("read", "host"), ("decode", "host")]
    assert names(report)[2:] == MEASURED[placement.replace("threads", "tf")]


@pytest.mark.slow
def test_batches_are_measured_on_all_devices():
    spread = tiny.replace(config(), "runtime", devices=4)
    report = cssl_jax.bench_input(spread, seconds=0.01)
    assert report.measured.devices == 4
    assert len(report.measured.pipeline.rows) == 8


@pytest.mark.slow
def test_a_stage_that_is_slowed_down_becomes_the_limit(photos, monkeypatch):
    """Reading takes 20 ms per image, in one thread per core."""
    options = {"source": str(photos), "size": 8, **PLACEMENTS["threads-split"]}
    mesh = spmd.make_mesh(jax.devices()[:1])
    pipeline, _ = input_pipeline.pipeline_alone(config(**options), mesh, np.arange(8))
    records = type(pipeline.source.records)
    read = records.read

    def read_slowly(self, index):
        time.sleep(0.02)
        return read(self, index)

    monkeypatch.setattr(records, "read", read_slowly)
    measured = measure.measure(pipeline, mesh, seconds=0.3)
    assert measured.limit.name == "read"
    minimum = 0.02 / measure.cores() / 2  # two views per image
    assert minimum < measured.limit.seconds < 2 * minimum
    assert profile_result.verdict(measured).startswith("reading on ")
    assert "local disk" in profile_result.verdict(measured)


def test_images_decoded_beforehand_have_the_median_size(photos):
    options = {"source": str(photos), "size": 8, **PLACEMENTS["threads"]}
    mesh = spmd.make_mesh(jax.devices()[:1])
    pipeline, _ = input_pipeline.pipeline_alone(config(**options), mesh, np.arange(4))
    decoded = measure._with_decoded(pipeline, pipeline.source)
    assert decoded.source.images.shape[2:] == (24, 3)
    assert not decoded.whole
    index = int(pipeline.sampler.draw(0, pipeline.rows)[0][0])
    np.testing.assert_array_equal(decoded.source.images[0, :20], pipeline.source.image(index)[:20])


def test_the_crop_alone_turns_off_all_other_operations():
    policy = measure.crop_alone(ImagePolicy(affine=(1.0,), rotation=30.0, solarize=(0.2,)))
    used = [name for name in ("crop", "affine", "jitter", "blur", "solarize") if policy.uses(name)]
    assert used == ["crop"]
    assert policy.crop_area == ImagePolicy().crop_area


def costing(placement, platform, **costs):
    pipeline = tiny.Run(tiny.config(), pipeline=placement).pipeline
    stages = []
    for name, cost in costs.items():
        side, _, stage = name.partition("_")
        stages.append(profile_result.Stage(stage.replace("_", " + "), side, cost, 2))
    return profile_result.Measurement(pipeline, platform, 1, tuple(stages), 1.0)


def test_sides_work_at_the_same_time_on_an_accelerator_and_share_the_cores_of_a_cpu():
    costs = {"host_decode": 3.0, "host_crop_resize": 3.5, "device_augment": 4.0}
    assert costing("tf-split", "gpu", **costs).limit.name == "crop + resize"  # 6.5 > 4
    assert costing("tf-split", "cpu", **costs).limit.name == "augment"


@pytest.mark.parametrize(
    ("placement", "platform", "costs", "text"),
    [
        ("stream", "gpu", {"transfer_transfer": 2.0, "device_augment": 1.0}, "--data.resident"),
        ("tf", "gpu", {"transfer_transfer": 2.0, "host_augment": 1.0}, "--data.size, now 8"),
        ("tf", "gpu", {"host_augment": 2.0}, "--data.augment-on device"),
        ("resident", "gpu", {"device_augment": 2.0}, "augmentation on the device is the limit"),
        ("resident", "cpu", {"device_augment": 2.0}, "the device is this host's CPU"),
        ("resident", "gpu", {"device_crop_resize": 2.0}, "--augment.interpolation bilinear"),
    ],
)
def test_the_sentence_names_the_limit_and_a_way_out(placement, platform, costs, text):
    measured = costing(placement, platform, **costs)
    group = measured.pipeline.first_group
    policy = dataclasses.replace(group.policy, interpolation="bicubic")
    groups = {"main": dataclasses.replace(group, policy=policy)}
    pipeline = dataclasses.replace(measured.pipeline, groups=groups)
    sentence = profile_result.verdict(dataclasses.replace(measured, pipeline=pipeline))
    assert "is the limit; " in sentence
    assert text in sentence


@pytest.mark.parametrize(("placement", "times"), [("tf", 1), ("threads", 0)])
def test_the_plain_resize_is_advised_once_and_where_it_helps(placement, times):
    """The advice is for tf.data only: Pillow's resize does not become faster."""
    sentence = profile_result.verdict(costing(placement, "gpu", host_crop_resize=2.0))
    assert sentence.count("--augment.no-antialias") == times


def test_the_table_lists_milliseconds_per_view_on_one_core():
    text = profile_result.format_table(
        costing("tf-split", "gpu", host_decode=0.001, device_augment=0.0)
    )
    assert "1,000           2.000" in text  # two cores make a view in 1 ms
    assert "about 0" in text


def test_one_host_core_supplies_the_inverse_of_all_core_time_on_the_host():
    measured = costing("tf", "gpu", host_decode=0.001, host_augment=0.004, device_normalise=9.0)
    assert measured.views_per_core == pytest.approx(100)  # 2 cores: 2 + 8 ms of a core per view
    assert "--views-per-core 100`" in profile_result.format_table(measured)
    on_device = costing("resident", "gpu", device_augment=2.0)
    assert on_device.views_per_core == 0
    assert "views-per-core" not in profile_result.format_table(on_device)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_duration_that_is_not_positive_is_an_error(seconds):
    with pytest.raises(UserError, match=r"--seconds .*; give more than 0"):
        cssl_jax.bench_input(config(), seconds=seconds)


def test_the_command_prints_the_table_and_refuses_in_one_line(capsys):
    assert cli.main(["bench-input", "digits", "--seconds", "0.01", "--train.batch-size", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("input     digits: resident: ")
    assert "views/s" in printed
    assert printed.splitlines()[-1].endswith(".")
    assert cli.main(["bench-input", "digits", "--data.source", "no.npz"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["bench-input"]) == 2
    assert "name the recipe first: cssl-jax bench-input RECIPE" in capsys.readouterr().err


@pytest.mark.slow
def test_the_measured_pipeline_is_the_one_that_trains():
    report = cssl_jax.bench_input(config(**PLACEMENTS["threads"]), seconds=0.01)
    pipeline = report.measured.pipeline
    assert isinstance(pipeline, HostPipeline)
    assert (pipeline.engine, pipeline.whole) == ("threads", True)
    assert pipeline.first_group.policy == config().augment
