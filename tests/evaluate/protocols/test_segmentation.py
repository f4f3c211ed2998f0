"""Segment probe: sampling of masks, metrics, and the report of a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from cssl_jax import evaluate_run, pretrain
from cssl_jax.cli import main as cli
from cssl_jax.config import EvaluateConfig, ImageData
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.open import load_source
from cssl_jax.data.sources.segmentation_masks import load_masks
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols import segmentation
from cssl_jax.evaluate.protocols.segmentation import (
    SegmentProbe,
    pixel_confusion,
    pixel_maps,
    segmentation_metrics,
)
from cssl_jax.runtime import spmd
from helpers import tiny

GREY = ImageOptions(channels=1)


def scenes(count, side=32, classes=3, seed=0):
    """Digits of the first classes, enlarged twice, at random on a noisy canvas; mask: digit + 1."""
    digits, rng = load_source("digits"), np.random.default_rng(seed)
    chosen = rng.choice(np.flatnonzero(digits.labels < classes), count)
    images = rng.integers(0, 90, (count, side, side), dtype=np.uint8)
    masks = np.zeros((count, side, side), np.uint8)
    for image, mask, number in zip(images, masks, chosen, strict=True):
        digit = np.kron(digits.images[number, ..., 0], np.ones((2, 2), np.uint8))
        top, left = rng.integers(0, side - 15, 2)
        place = np.s_[top : top + 16, left : left + 16]
        image[place] = np.maximum(image[place], digit)
        mask[place][digit > 100] = digits.labels[number] + 1
    return images[..., None], masks


def write_folder(folder, images, masks):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        PIL.Image.fromarray(image[..., 0]).save(folder / "images" / f"{number:03}.png")
        PIL.Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    masks, predicted = rng.integers(0, 4, (3, 9, 9)), rng.integers(0, 4, (3, 9, 9))
    masks[masks == 2] = 1  # a class that is predicted only
    masks[0, :4] = 255
    confusion = pixel_confusion(masks.astype(np.uint8), predicted.astype(np.uint8), 6)
    known = masks != 255
    true, guess = masks[known], predicted[known]
    np.testing.assert_array_equal(confusion, confusion_matrix(true, guess, labels=range(6)))
    found = segmentation_metrics(confusion)
    iou = jaccard_score(true, guess, labels=range(4), average=None)
    assert found["per_class_iou"] == [*iou.tolist(), None, None]
    assert found["mean_iou"] == pytest.approx(iou.mean())
    assert found["pixel_accuracy"] == accuracy_score(true, guess)
    recall = recall_score(true, guess, labels=[0, 1, 3], average=None)
    assert [found["per_class_accuracy"][c] for c in (0, 1, 3)] == pytest.approx(recall.tolist())
    assert found["per_class_accuracy"][2] is None


@pytest.mark.parametrize("side", [4, 1])
def test_pixels_of_maps_are_those_of_the_resized_map(side):
    maps = np.float32(np.random.default_rng(0).normal(size=(3, side, side, 2)))
    whole = jax.image.resize(maps, (3, 8, 8, 2), "bilinear")
    np.testing.assert_allclose(segmentation._resize(maps, 8), whole, atol=1e-5)
    pixels = np.tile(np.arange(64), (3, 1))
    drawn = segmentation._interpolate_at(jnp.asarray(maps), jnp.asarray(pixels), 8)
    np.testing.assert_allclose(drawn, np.reshape(whole, (3, 64, 2)), atol=1e-5)


def probe(maps, tmp_path, count=40, devices=1, **options):
    images, masks = scenes(count)
    np.savez(tmp_path / "scenes.npz", images=images, masks=masks)
    source = load_masks(str(tmp_path / "scenes.npz"), GREY)
    train, test = source.take(np.arange(count // 2)), source.take(np.arange(count // 2, count))
    mesh = spmd.make_mesh(jax.devices()[:devices])
    settings = {"num_classes": 4, "pixels": 4000, "l2_values": (1e-4, 1.0), "seed": 0, **options}
    return SegmentProbe(maps, mesh, size=32)({}, train, test, **settings), test


@pytest.mark.slow
def test_maps_that_show_the_class_are_read_without_a_mistake(tmp_path):
    """The map is a linear code of the class; its first channel is large and carries no signal."""
    _, masks = scenes(40)
    code = np.random.default_rng(1).normal(size=(4, 6))
    shown = np.concatenate([np.full((40, 32, 32, 1), 1e3), code[masks]], axis=-1)
    images = scenes(40)[0]

    def maps(variables, x):  # finds the map of an image by its pixels
        same = jnp.all(x["image"][:, None] == images[None], axis=(2, 3, 4))
        return [jnp.asarray(shown, jnp.float32)[jnp.argmax(same, axis=1)]]

    found, test = probe(maps, tmp_path)
    assert found["mean_iou"] == found["pixel_accuracy"] == 1.0
    assert found["l2"] == 1e-4
    assert found["pixels"] == 4000
    np.testing.assert_array_equal(
        np.sum(found["confusion"], axis=1), np.bincount(test.masks.ravel(), minlength=4)
    )


@pytest.mark.slow
def test_raw_pixels_separate_ink_from_canvas_on_any_number_of_devices(tmp_path):
    maps = pixel_maps(ImageSpec(size=32, channels=1, mean=(0.5,), std=(0.5,)))
    one, _ = probe(maps, tmp_path)
    assert one["per_class_iou"][0] > 0.95  # the canvas
    assert one["mean_iou"] < 0.6  # a small patch does not show which digit it is
    assert one["mean_iou"] == pytest.approx(
        probe(maps, tmp_path, devices=8)[0]["mean_iou"], abs=5e-3
    )


def test_pixels_without_a_class_are_neither_fitted_nor_evaluated(tmp_path):
    images, masks = scenes(20)
    masks[:, :8] = 255
    np.savez(tmp_path / "cut.npz", images=images, masks=masks)
    source = load_masks(str(tmp_path / "cut.npz"), GREY)
    assert source.num_classes == 4
    maps = pixel_maps(ImageSpec(size=32, channels=1, mean=(0.5,), std=(0.5,)))
    run = SegmentProbe(maps, spmd.make_mesh(jax.devices()[:1]), size=32)
    found = run({}, source, source, num_classes=4, pixels=10**9, l2_values=(0.1,), seed=0)
    assert found["pixels"] == np.sum(found["confusion"]) == 20 * 24 * 32


@pytest.mark.parametrize("split", ["training", "validation"])
def test_masks_without_any_class_are_refused_not_reported_as_nan(tmp_path, split):
    images, masks = scenes(20)
    masks[:10] = 255
    np.savez(tmp_path / "half.npz", images=images, masks=masks)
    source = load_masks(str(tmp_path / "half.npz"), GREY)
    bare, good = source.take(np.arange(10)), source.take(np.arange(10, 20))
    maps = pixel_maps(ImageSpec(size=32, channels=1, mean=(0.5,), std=(0.5,)))
    run = SegmentProbe(maps, spmd.make_mesh(jax.devices()[:1]), size=32)
    parts = (bare, good) if split == "training" else (good, bare)
    with pytest.raises(UserError, match=f"every pixel of the 10 {split} masks is 255"):
        run({}, *parts, num_classes=4, pixels=400, l2_values=(0.1,), seed=0)
    nothing = segmentation_metrics(np.zeros((3, 3), np.int64))
    assert nothing["mean_iou"] is nothing["pixel_accuracy"] is None


def test_a_folder_and_its_masks_stay_aligned_where_they_are_cropped_and_resized(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 3, (5, 6, 9)).astype(np.uint8)
    masks = np.kron(blocks, np.ones((8, 8), np.uint8))  # 48 x 72, one grey level per class
    write_folder(tmp_path / "set", masks[..., None] * 100 + 5, masks)
    source = load_masks(str(tmp_path / "set"), ImageOptions(channels=1, in_memory=False))
    assert (len(source), source.num_classes) == (5, 3)
    parts = zip(*source.blocks(2, 24), strict=True)
    images, squares = map(np.concatenate, parts)
    centre = masks[:, :, 12:-12]
    np.testing.assert_array_equal(squares, centre[:, 1::2, 1::2])
    shown = (images[..., 0].astype(float) - 5) / 100
    assert np.mean(np.abs(shown - squares) < 0.3) > 0.9  # blurred pixels are next to an edge


def rgb(path):
    PIL.Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)


def smaller(path):
    PIL.Image.fromarray(np.zeros((30, 32), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), r"lacks 003\.png; give every image a mask"),
        (lambda path: path.write_bytes(b"no PNG"), "cannot be read as a mask"),
        (rgb, "of mode RGB; one byte per pixel is needed"),
        (smaller, r"003\.png has 30 x 32 pixels, the image 32 x 32"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, spoil, words):
    write_folder(tmp_path, *scenes(6))
    spoil(tmp_path / "masks" / "003.png")
    with pytest.raises(UserError, match=words):
        load_masks(str(tmp_path), GREY)


def test_what_is_no_set_of_masks_is_refused(tmp_path):
    with pytest.raises(UserError, match="digits is not a set of images with masks; give a folder"):
        load_masks("digits", GREY)
    images, masks = scenes(4)
    for arrays, words in (
        ({}, "needs an array named 'masks'"),
        ({"masks": masks[:3]}, "4 images, but 3 masks"),
        ({"masks": masks.astype(int)}, "give uint8"),
        ({"masks": masks * 0}, "fewer than two classes"),
    ):
        np.savez(tmp_path / "set.npz", images=images, **arrays)
        with pytest.raises(UserError, match=words):
            load_masks(str(tmp_path / "set.npz"), GREY)


@pytest.mark.slow
def test_a_run_is_reported_on_beside_its_baselines(tmp_path, capsys):
    plain, run = tmp_path / "plain.npz", tmp_path / "run"
    np.savez(plain, images=scenes(60)[0][:, ::2, ::2])
    pretrain(tiny.replace(tiny.config(epochs=1), "data", source=str(plain), size=16), run)
    with pytest.raises(UserError, match="is not a set of images with masks"):
        evaluate_run(run, "segment", data=ImageData(source="digits"))
    images, masks = scenes(30)
    np.savez(tmp_path / "scenes.npz", images=images, masks=masks)
    data = ImageData(source=str(tmp_path / "scenes.npz"))
    with pytest.raises(UserError, match="has 3; this encoder has the stages 1 to 2"):
        evaluate_run(run, "segment", data=data, options=EvaluateConfig(segment_stages=(1, 3)))
    words = ["evaluate", str(run), "--protocol", "segment", "--json", str(tmp_path / "out.json")]
    words += ["--data.source", str(tmp_path / "scenes.npz"), "--evaluate.segment-pixels", "2000"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "out.json").read_text())
    kept = json.loads((run / "results.json").read_text())
    assert kept["transfer"][str(tmp_path / "scenes.npz")] == results
    assert results["split"] == {"train": 24, "validation": 6}
    assert results["stages"] == [1, 2]
    for row in (results, results["random_init"], results["pixels"]):
        assert len(row["segment"]["per_class_iou"]) == 4
        assert 0 < row["segment"]["mean_iou"] <= row["segment"]["pixel_accuracy"] <= 1
    assert results["encoder_hash"]["unchanged"]
    assert "mean IoU" in shown
    assert "IoU by class" in shown
    assert "not selected on any data, reported on all 6 validation images at 16 x 16 px" in shown
    assert "leakage" in shown


def test_the_protocol_is_asked_for_by_itself(tmp_path):
    with pytest.raises(UserError, match="'segment' needs images with masks; request it alone"):
        evaluate_run(tmp_path, ["knn", "segment"])
