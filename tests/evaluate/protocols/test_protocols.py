"""Protocols: the data that they may use, their metrics, and the printed table."""

import dataclasses
import types

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.results import Results
from cssl_jax.modalities.image import IMAGE
from cssl_jax.report.results_table import format_results as format_typed
from cssl_jax.report.tables import encoder_tables

OPTIONS = protocols.ProtocolOptions(
    protocols=("knn", "linear"), knn_k=5, knn_temperature=0.1, seed=0
)
# Flips and crops only: an image of one colour does not change.
CROPS = ImagePolicy(jitter=(0.0,), grayscale=(0.0,), blur=(0.0,))


def flat(source):
    return source.images.reshape(len(source), -1).astype(np.float32)


def source(labels, seed=0, spread=60):
    """4 x 4 images scattered about one mean image per class."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    centres = np.random.default_rng(1).integers(60, 190, (10, 4, 4, 1))
    images = centres[labels] + rng.integers(-spread, spread + 1, (len(labels), 4, 4, 1))
    return ArraySource("images", images.clip(0, 255).astype(np.uint8), labels)


def plain(count, size=8):
    """Images of one colour each, all different."""
    colours = np.stack([np.arange(count) // 17, np.arange(count) % 17], axis=-1) * 15
    images = np.tile(colours[:, None, None], (1, size, size, 1))
    return ArraySource("plain", images.astype(np.uint8))


def own_direction(source):
    """One-hot of the colour: invariant to crops and flips, orthogonal between images."""
    levels = source.images[:, 4, 3].astype(int) // 15
    return np.eye(289, dtype=np.float32)[levels[:, 0] * 17 + levels[:, 1]]


def test_knn_is_scikit_learns_on_the_features():
    train, validation = (
        source(np.arange(n) % 3, seed, spread=150) for n, seed in ((90, 0), (60, 2))
    )
    options = dataclasses.replace(OPTIONS, protocols=("knn",))
    results = protocols.labelled(flat, train, validation, options)

    def unit(x):
        x = flat(x).astype(np.float64)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    reference = KNeighborsClassifier(5, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1))
    expected = reference.fit(unit(train), train.labels).score(unit(validation), validation.labels)
    assert results == {"knn": {"top1": expected, "top5": 1.0, "k": 5}}
    assert 0.5 < expected < 1.0


def test_k_is_reported_as_used():
    train = source(np.arange(30) % 3)
    options = dataclasses.replace(OPTIONS, protocols=("knn",), knn_k=200)
    results = protocols.labelled(flat, train, train, options)
    assert results["knn"]["k"] == 30


def test_validation_labels_choose_nothing():
    train, validation = source(np.arange(60) % 3), source(np.arange(40) % 3, seed=2)
    # Identical images, with labels that are all wrong.
    swapped = ArraySource("swapped", validation.images, (validation.labels + 1) % 3)
    options = dataclasses.replace(OPTIONS, protocols=("linear",))
    right, wrong = (
        protocols.labelled(flat, train, v, options)["linear"] for v in (validation, swapped)
    )
    assert right["l2"] == wrong["l2"]
    assert right["top1"] > 0.7
    # Each row is a hit for at most one of the two labels.
    assert wrong["top1"] <= 1 - right["top1"]


def test_a_class_that_only_validation_has_is_missed_and_not_an_error():
    train, validation = source(np.arange(60) % 3, spread=5), source([0, 1, 2, 7] * 5, spread=5)
    results = protocols.labelled(flat, train, validation, OPTIONS)
    assert results["knn"]["top1"] == results["linear"]["top1"] == 0.75


def test_an_unknown_protocol_is_named_before_anything_is_computed():
    train = source([0, 1])
    with pytest.raises(UserError, match="protocol 'knm' is unknown; use knn or linear or"):
        protocols.labelled(
            lambda source: pytest.fail("computed"),
            train,
            train,
            dataclasses.replace(OPTIONS, protocols=("knn", "knm")),
        )


def test_features_that_separate_images_and_ignore_the_views_have_the_known_metrics():
    # Six images more than the 256 that are drawn at once.
    metrics = protocols.unlabelled(own_direction, plain(262), CROPS, size=8, seed=0, modality=IMAGE)
    assert metrics == {
        "view_retrieval": 1.0,
        "alignment": 0.0,
        "uniformity": pytest.approx(-4.0, rel=1e-6),  # all pairs are orthogonal: -2 x 2
        # epsilon = 1e-7 per singular value times ln(1e7): 262 x 1e-7 x 16 = 4e-4.
        "rankme": pytest.approx(262, rel=1e-3),
    }


def test_features_that_are_all_the_same_have_the_metrics_of_collapse():
    metrics = protocols.unlabelled(
        lambda source: np.ones((len(source), 16), np.float32),
        plain(40),
        CROPS,
        size=8,
        seed=0,
        modality=IMAGE,
    )
    assert metrics == {
        "view_retrieval": 0.0,
        "alignment": 0.0,
        "uniformity": pytest.approx(0.0, abs=1e-5),
        "rankme": pytest.approx(1.0, abs=1e-4),
    }


def test_the_two_views_differ_and_depend_on_the_seed_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 2)).astype(np.uint8)
    noise = ArraySource("noise", pixels)

    def views(seed):
        seen = []

        def features(views):
            assert views.images.dtype == np.uint8
            assert views.images.shape == (20, 8, 8, 2)
            seen.append(views.images)
            return flat(views)

        protocols.unlabelled(features, noise, CROPS, size=8, seed=seed, modality=IMAGE)
        return np.stack(seen)

    first, again, other = views(0), views(0), views(1)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 2
    assert np.all(np.any(first[0] != first[1], axis=(1, 2, 3)))
    assert np.any(first != other)


def format_results(content):
    return format_typed(Results.from_json({"step": 2, **content}))


def result(top1, top5):
    return {
        "knn": {"top1": top1, "top5": top5, "k": 200},
        "linear": {"top1": top1 + 0.0104, "top5": top5 - 0.01, "l2": 0.1},
    }


def test_the_table_of_labelled_results_gives_percent_beside_both_baselines():
    results = {
        **result(0.9, 0.99),
        "random_init": result(0.5, 0.8),
        "pixels": result(0.25, 0.75),
        "num_classes": 10,
    }
    head, *rows = format_results(results).splitlines()
    assert head.split("  ")[-1].strip() == "knn top-5"
    assert head.split() == ["linear", "top-1", "linear", "top-5", "knn", "top-1", "knn", "top-5"]
    assert [row.split() for row in rows] == [
        ["trained", "encoder", "91.0", "%", "98.0", "%", "90.0", "%", "99.0", "%"],
        ["untrained", "encoder", "51.0", "%", "79.0", "%", "50.0", "%", "80.0", "%"],
        ["raw", "pixels", "26.0", "%", "74.0", "%", "25.0", "%", "75.0", "%"],
    ]
    assert len({len(line) for line in (head, *rows)}) == 1  # columns line up


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (5, False), (6, True), (10, True)])
def test_top5_is_a_column_only_where_it_can_be_missed(classes, shown):
    results = {**result(0.9, 1.0), "pixels": result(0.5, 1.0), "num_classes": classes}
    results["best"] = {**result(0.9, 1.0), "step": 1, "images": 4, "last": result(0.8, 1.0)}
    text = format_results(results)
    assert ("top-5" in text) == shown
    assert text.count("knn top-1") == 2
    run = types.SimpleNamespace(name="x", results=Results.from_json({**results, "step": 2}))
    (found,) = encoder_tables([run])
    assert any("top-5" in title for title in found.titles) == shown


def test_a_metric_that_is_no_number_is_a_dash():
    metrics = {"view_retrieval": None, "alignment": 0.25, "uniformity": None, "rankme": 17.0}
    *_, row = format_results(metrics).splitlines()
    assert row.split() == ["trained", "encoder", "-", "0.250", "-", "17.000"]


def test_the_table_of_one_protocol_has_its_columns_only():
    results = {name: result(0.5, 0.8) for name in ("random_init", "pixels")}
    results["knn"] = result(0.9, 0.99)["knn"]
    assert format_results(results).splitlines()[0].split() == ["knn", "top-1", "knn", "top-5"]


def test_the_table_of_unlabelled_results_gives_the_label_free_metrics():
    metrics = {"view_retrieval": 0.5, "alignment": 0.25, "uniformity": -2.125, "rankme": 17.0004}
    results = {**metrics, "random_init": metrics, "pixels": {**metrics, "rankme": 3.0}}
    head, trained, _, raw = format_results(results).splitlines()
    assert head.split() == ["view_retrieval", "alignment", "uniformity", "rankme"]
    assert trained.split() == ["trained", "encoder", "0.500", "0.250", "-2.125", "17.000"]
    assert raw.split()[-1] == "3.000"
