"""The sheet of views shows the same views as the train step, and view logs the same draws."""

import dataclasses

import jax
import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax.augment.image import contact_sheet
from cssl_jax.data.view_log import writer as view_log
from cssl_jax.errors import UserError
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.train.logging import logger
from helpers import tiny
from tests.helpers.marks import slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    source = tiny.image_source(60, channels=3)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return str(path)


def make_config(source, **data):
    return tiny.replace(tiny.config(epochs=3), "data", source=source, **data)


def drawn_examples(monkeypatch, config, **options):
    """Examples that ``draw_views`` passes to ``draw_sheet``."""
    collected = []
    with monkeypatch.context() as patch:
        patch.setattr(contact_sheet, "draw_sheet", lambda examples, *_: collected.extend(examples))
        cssl_jax.draw_views(config, **options)
    return collected


PLACEMENTS = [
    {},
    slow({"resident": False}),
    slow({"augment_on": "split", "engine": "threads"}),
    slow({"augment_on": "host", "engine": "threads"}),
    slow({"augment_on": "host", "engine": "tf"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_views_are_identical_to_those_of_the_train_step(arrays, monkeypatch, placement):
    if placement.get("engine") == "tf":
        pytest.importorskip("tensorflow")
    config = make_config(arrays, **placement)
    examples = drawn_examples(monkeypatch, config, step=4, examples=5)
    experiment = Experiment.from_config(config)
    pipeline, spec = experiment.pipeline, experiment.spec
    (host_batch,) = pipeline.host_batches(4, 5)
    batch = jax.device_get(
        jax.jit(pipeline.make_batch)(np.int32(4), pipeline.constants, host_batch)
    )
    views = 255 * (batch["views"]["main"] * np.array(spec.std) + np.array(spec.mean))
    assert len(examples) == 5
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(example.pixels, experiment.train.image(batch["index"][row]))
        for number, view in enumerate(example.views):
            # Rounding to levels gives 0.5; two compilations of the float32 arithmetic the rest.
            np.testing.assert_allclose(view.pixels, views[row, number], atol=0.51)


@pytest.mark.slow
def test_photos_of_any_size_are_shown_with_their_names_and_sizes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(20):
        height, width = rng.integers(20, 60, 2)
        coarse = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
        PIL.Image.fromarray(coarse).resize((width, height)).save(tmp_path / f"{number:02}.png")
    config = make_config(str(tmp_path), size=16, engine="threads")
    config = dataclasses.replace(config, augment=cssl_jax.ImagePolicy())
    examples = drawn_examples(monkeypatch, config, examples=16)
    for example in examples:
        name, size = example.description
        with PIL.Image.open(tmp_path / name) as image:
            assert size == f"{image.width} x {image.height} px"
            np.testing.assert_array_equal(example.pixels, np.asarray(image))
        for view in example.views:
            assert view.pixels.shape == (16, 16, 3)
            assert (view.outline >= 0).all()
            assert (view.outline <= example.pixels.shape[1::-1]).all()
    assert isinstance(cssl_jax.draw_views(config, examples=2), PIL.Image.Image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 17}, r"17 examples; a sheet shows 1 to 16, one batch \(--train.batch-size"),
        ({"examples": 0}, "0 examples; a sheet shows 1 to 16"),
        ({"step": 9}, "there is no step 9 in this run; its steps are 0 to 8"),
        ({"step": -1}, "there is no step -1 in this run; its steps are 0 to 8"),
    ],
)
def test_steps_and_examples_outside_the_run_are_refused(arrays, options, message):
    with pytest.raises(UserError, match=message):
        cssl_jax.draw_views(make_config(arrays), **options)


class CrashError(Exception):
    pass


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


@pytest.fixture(scope="module")
def plain(arrays, tmp_path_factory):
    """A run without recorded views."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    cssl_jax.pretrain(make_config(arrays), folder)
    return folder


def test_recorded_views_equal_those_drawn_from_the_config(arrays, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(view_log, "SHARD", 4)
    config = tiny.replace(make_config(arrays), "train", record_views=True)
    cssl_jax.pretrain(config, tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert metrics == (plain / "metrics.jsonl").read_bytes()  # recording changes nothing
    files = sorted(path.name for path in (tmp_path / "run" / "views").iterdir())
    assert files == ["00000000.npz", "00000004.npz", "00000008.npz"]
    expected = cssl_jax.load_views(config, 0, 9)
    assert expected["step"].tolist() == list(range(9))
    assert expected["box"].shape == (9, 16, 2, 4)
    (tmp_path / "run" / "config.json").write_text("no run could be read from this")
    assert_same(cssl_jax.load_views(tmp_path / "run", 0, 9), expected)
    step_5 = cssl_jax.load_views(str(tmp_path / "run"), 5, 6)
    assert_same(step_5, {name: value[5:6] for name, value in expected.items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    "crash",
    [2, 4, 6],
)
def test_a_killed_run_records_every_step_exactly_once(arrays, tmp_path, monkeypatch, crash):
    monkeypatch.setattr(view_log, "SHARD", 2)
    config = tiny.replace(make_config(arrays), "train", record_views=True, checkpoint_every=1)
    add = logger.RunLogger.after_step

    def stop(self, run, *rest):
        add(self, run, *rest)
        if run.step == crash:
            self._views._done = self._views._first  # as if the kill came before the next write
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(logger.RunLogger, "after_step", stop)
        with pytest.raises(CrashError):
            cssl_jax.pretrain(config, tmp_path / "run")
    cssl_jax.pretrain(config, tmp_path / "run")
    steps = []
    for path in sorted((tmp_path / "run" / "views").iterdir()):
        with np.load(path, allow_pickle=False) as content:
            steps += content["step"].tolist()
    assert steps == list(range(9))


def test_views_of_a_run_without_a_record_are_drawn_again(arrays, plain):
    assert not (plain / "views").exists()
    expected = cssl_jax.load_views(make_config(arrays), 2, 5)
    assert_same(cssl_jax.load_views(plain, 2, 5), expected)
    with pytest.raises(
        UserError, match=r"there are no steps \[7, 12\) in this run; its steps are 0"
    ):
        cssl_jax.load_views(plain, 7, 12)
    with pytest.raises(UserError, match="nowhere is no run folder"):
        cssl_jax.load_views("nowhere", 0, 1)
