"""The sheet of views shows what the train step sees."""

import dataclasses

import jax
import numpy as np
import PIL.Image
import pytest

import cssl_jax
import tiny
from cssl_jax.augment import sheet
from cssl_jax.errors import UserError
from cssl_jax.train.parts import assemble


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    source = tiny.pictures(60, channels=3)
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return str(path)


def make_config(source, **data):
    return tiny.replace(tiny.config(epochs=3), "data", source=source, **data)


def drawn_examples(monkeypatch, config, **options):
    """What ``draw_views`` hands to the drawing."""
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(sheet, "draw_sheet", lambda examples, *_: kept.extend(examples))
        cssl_jax.draw_views(config, **options)
    return kept


PLACEMENTS = [
    {},
    {"resident": False},
    {"augment_on": "split", "engine": "threads"},
    {"augment_on": "host", "engine": "threads"},
    {"augment_on": "host", "engine": "tf"},
]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_views_are_those_of_the_train_step(arrays, monkeypatch, placement):
    if placement.get("engine") == "tf":
        pytest.importorskip("tensorflow")
    config = make_config(arrays, **placement)
    examples = drawn_examples(monkeypatch, config, step=4, examples=5)
    parts = assemble(config)
    pipeline, spec = parts.pipeline, parts.spec
    (feed,) = pipeline.feeds(4, 5)
    batch = jax.device_get(jax.jit(pipeline.make_batch)(np.int32(4), pipeline.constants, feed))
    views = 255 * (batch["views"]["main"] * np.array(spec.std) + np.array(spec.mean))
    assert len(examples) == 5
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(example.pixels, parts.train.image(batch["index"][row]))
        for number, view in enumerate(example.views):
            # Half a level of rounding, and two compilations of the same float32 arithmetic.
            np.testing.assert_allclose(view.pixels, views[row, number], atol=0.51)


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
        name, size = example.words
        with PIL.Image.open(tmp_path / name) as picture:
            assert size == f"{picture.width} x {picture.height} px"
            np.testing.assert_array_equal(example.pixels, np.asarray(picture))
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
        ({"step": 9}, "there is no step 9 in this run; give 0 to 8"),
        ({"step": -1}, "there is no step -1 in this run; give 0 to 8"),
    ],
)
def test_what_is_not_in_the_run_is_refused(arrays, options, message):
    with pytest.raises(UserError, match=message):
        cssl_jax.draw_views(make_config(arrays), **options)
