"""One class has the same number in all sources, whatever other classes a source contains."""

import dataclasses

import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.classes import align_class_numbers
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.experiment import data_splits
from cssl_jax.transfer.adapt.domains import Domains
from helpers import solid_images, tiny

TRAIN = ("ant", "bee", "cat")


def config(train, validation="", **data):
    chosen = tiny.replace(tiny.config(), "data", source=train, validation_source=validation)
    return tiny.replace(chosen, "data", size=8, **data)


def colours(source):
    """Class name of every image, from its colour and not from a label."""
    names = list(solid_images.COLOURS)
    values = np.array(list(solid_images.COLOURS.values()))
    means = [source.image(i).mean(axis=(0, 1)) for i in range(len(source))]
    return [names[np.abs(values - mean).sum(axis=1).argmin()] for mean in means]


def assert_numbered_by(source, names, unlabelled=()):
    for colour, label in zip(colours(source), source.labels, strict=True):
        assert label == (-1 if colour in unlabelled else names.index(colour))


@pytest.mark.parametrize("kind", solid_images.KINDS)
@pytest.mark.parametrize("held", [("ant", "cat"), ("bee", "cat"), TRAIN])
def test_a_second_source_is_numbered_as_the_first(tmp_path, kind, held):
    train = solid_images.write(kind, tmp_path / "train", TRAIN)
    validation = solid_images.write(kind, tmp_path / "validation", held, seed=1)
    for split in data_splits.load_data(config(train, validation)):
        assert_numbered_by(split, TRAIN)
        assert split.classes == TRAIN
        assert split.num_classes == 3


def test_a_source_of_another_kind_is_numbered_as_the_first(tmp_path):
    train = solid_images.write("folder", tmp_path / "train", TRAIN)
    for number, kind in enumerate(set(solid_images.KINDS) - {"mixed sizes"}):
        validation = solid_images.write(kind, tmp_path / str(number), ("bee", "cat"), seed=1)
        _, held_out = data_splits.load_data(config(train, validation))
        assert_numbered_by(held_out, TRAIN)


@pytest.mark.parametrize("kind", solid_images.KINDS)
@pytest.mark.parametrize(
    ("held", "lacking"),
    [(("aphid", *TRAIN), "aphid"), (("aphid", "ant"), "aphid"), (("aphid", "dog"), "aphid, dog")],
)
def test_classes_that_the_first_source_lacks_are_refused_by_name(tmp_path, kind, held, lacking):
    train = solid_images.write(kind, tmp_path / "train", TRAIN)
    validation = solid_images.write(kind, tmp_path / "validation", held, seed=1)
    message = rf"data\.source lacks: {lacking} \(data\.source has ant, bee, cat\)"
    with pytest.raises(UserError, match=message) as refused:
        data_splits.load_data(config(train, validation))
    remedy = "--data.unknown-classes exclude"
    assert (remedy in str(refused.value)) == bool({*held} & {*TRAIN})
    if remedy in str(refused.value):
        chosen = config(train, validation, unknown_classes="exclude")
        _, held_out = data_splits.load_data(chosen)
        assert_numbered_by(held_out, TRAIN, unlabelled=("aphid",))
        assert "8 examples of classes that data.source lacks (aphid)" in held_out.notes[-1]
    else:
        with pytest.raises(UserError, match=message):
            data_splits.load_data(config(train, validation, unknown_classes="exclude"))


def test_numbers_stay_numbers(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=[0, 1, 2, 3])
    np.savez(tmp_path / "some.npz", images=images, labels=[3, 1, -1, 3])
    _, held_out = data_splits.load_data(
        config(str(tmp_path / "train.npz"), str(tmp_path / "some.npz"))
    )
    np.testing.assert_array_equal(held_out.labels, [3, 1, -1, 3])
    np.savez(tmp_path / "more.npz", images=images, labels=[0, 5, 1, 2])
    _, held_out = data_splits.load_data(
        config(str(tmp_path / "train.npz"), str(tmp_path / "more.npz"))
    )
    np.testing.assert_array_equal(held_out.labels, [0, 5, 1, 2])


def arrays(labels, classes=()):
    labels = np.array(labels, np.int64)
    return ArraySource("x", np.zeros((len(labels), 8, 8, 1), np.uint8), labels, classes=classes)


def number(source, names, **options):
    return align_class_numbers(source, names, option="second", reference="first", **options).labels


@pytest.mark.parametrize(
    ("labels", "classes", "names", "expected"),
    [
        # Labels without names, and names: the numbers are positions in the names.
        ([2, 0, -1], (), TRAIN, [2, 0, -1]),
        # Names of all classes, and labels without names: matched by position.
        ([0, 2], TRAIN, ("0", "1", "2"), [0, 2]),
        # Folders whose names are numbers: matched by value, also with leading zeros or in
        # alphabetical order.
        ([0, 1, 2], ("0", "1", "3"), ("0", "1", "2", "3"), [0, 1, 3]),
        ([3, 1], (), ("00001", "00003"), [1, 0]),
        ([1, 10], (), ("1", "10", "2"), [0, 1]),
        # The same, where only the positions fit.
        ([0, 2, 1], (), ("1", "10", "2"), [0, 2, 1]),
        # Two classes with the same name are distinguished by their numbers.
        ([0, 1], ("cat", "cat"), ("cat", "cat", "dog"), [0, 1]),
        # A class without an image is ignored.
        ([0, 2], ("ant", "wasp", "cat"), TRAIN, [0, 2]),
    ],
)
def test_names_and_numbers_are_matched(labels, classes, names, expected):
    np.testing.assert_array_equal(number(arrays(labels, classes), names), expected)


@pytest.mark.parametrize(
    ("labels", "classes", "names", "message"),
    [
        ([0, 3], (), TRAIN, "second has labels up to 3, but first has the 3 classes ant, bee, cat"),
        ([0, 1], ("ant", "cat"), ("0", "1", "2"), r"numbers 0 to 2 without names.*--data\.classes"),
        ([0, 2], (), ("0", "1", "10", "2"), "label 2 may be the class '2' or class number 2, '10'"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused(labels, classes, names, message):
    with pytest.raises(UserError, match=message):
        number(arrays(labels, classes), names)


def test_class_names_given_by_an_option_number_the_source(tmp_path):
    train = solid_images.write("folder", tmp_path / "train", TRAIN)
    names = ("cat", "ant", "bee", "dog")
    for split in data_splits.load_data(config(train, classes=names)):
        assert_numbered_by(split, names)
        assert split.num_classes == 4
    with pytest.raises(UserError, match=r"data\.source has classes that data\.classes lacks: ant"):
        data_splits.load_data(config(train, classes=("bee", "cat")))


def test_numbers_can_be_given_names_by_an_option(tmp_path):
    validation = solid_images.write("folder", tmp_path / "validation", ("ant", "cat"), seed=1)
    images = solid_images.images(TRAIN, 4)
    labels = [TRAIN.index(name) for name, _ in images]
    np.savez(tmp_path / "a.npz", images=np.uint8([image for _, image in images]), labels=labels)
    train = str(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"--data\.classes ant"):
        data_splits.load_data(config(train, validation))
    _, held_out = data_splits.load_data(config(train, validation, classes=TRAIN))
    assert_numbered_by(held_out, TRAIN)


def test_class_names_survive_decoding_and_taking(tmp_path):
    for kind in ("folder", "mixed sizes"):
        source = load_source(solid_images.write(kind, tmp_path / kind, TRAIN))
        assert isinstance(source, ImageSource) == (kind == "mixed sizes")
        assert source.take(np.arange(3)).classes == TRAIN  # the first three images are all ants
        assert source.take(np.arange(3)).num_classes == 3
        twice = source.renumber_classes(np.array([1, 2, 0]), ("c", "a", "b"))
        twice = twice.renumber_classes(np.array([-1, 1, 2]), ("x", "y", "z"))
        np.testing.assert_array_equal(twice.labels, [1] * 8 + [2] * 8 + [-1] * 8)


@pytest.mark.parametrize(
    ("arrays_", "message"),
    [
        ({"classes": np.array(["a"])}, "label 1 has no name in the 1 classes"),
        ({"classes": np.array([1, 2])}, "give one string per class"),
    ],
)
def test_names_of_an_array_file_must_fit_its_labels(tmp_path, arrays_, message):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1], **arrays_)
    with pytest.raises(UserError, match=message):
        load_source(str(tmp_path / "a.npz"))


def test_a_classifier_has_an_output_for_every_label(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1, 2, 3])
    np.savez(tmp_path / "b.npz", images=images, labels=[0, 1, 2, 4])
    chosen = config(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"))
    chosen = recipes.with_method(chosen, "classifier")
    for classes, message in (
        (3, "training images have labels up to 3"),
        (4, "validation .* up to 4"),
    ):
        with pytest.raises(UserError, match=message):
            data_splits.load_data(tiny.replace(chosen, "classifier", num_classes=classes))
    data_splits.load_data(tiny.replace(chosen, "classifier", num_classes=5))


@pytest.mark.parametrize("kind", ["folder", "mixed sizes", "npz"])
def test_a_target_domain_is_numbered_as_the_source_in_every_training_run(tmp_path, kind):
    source = solid_images.write(kind, tmp_path / "source", TRAIN)
    target = solid_images.write(kind, tmp_path / "target", ("bee", "cat"), seed=1)
    chosen = tiny.replace(config(source), "adapt", target=target)
    domains = Domains(chosen)
    for split in (domains.target, domains.target_test):
        assert_numbered_by(split, TRAIN)
    # The setting that trains on the labels of the target has the same class numbers.
    target_only = data_splits.target_config(domains.resolved(chosen), domains.target_classes)
    for split in data_splits.load_data(target_only):
        assert_numbered_by(split, TRAIN)
    other = solid_images.write(kind, tmp_path / "other", ("ant", "dog"), seed=1)
    chosen = tiny.replace(chosen, "adapt", target=other)
    with pytest.raises(UserError, match=r"lacks: dog .*--adapt\.target-labels none"):
        Domains(chosen)
    chosen = tiny.replace(chosen, "data", unknown_classes="exclude")
    assert_numbered_by(Domains(chosen).target, TRAIN, unlabelled=("dog",))


def test_a_target_with_the_classes_of_the_source_is_not_renumbered(tmp_path):
    source, target = (
        solid_images.write("folder", tmp_path / name, TRAIN, seed=seed)
        for seed, name in enumerate(("source", "target"))
    )
    domains = Domains(tiny.replace(config(source), "adapt", target=target))
    assert domains.target_classes == ()


def test_copies_with_another_label_are_found_by_name(tmp_path):
    first, second = (
        load_source(solid_images.write("npz", tmp_path / str(number), classes))
        for number, classes in enumerate((TRAIN, ("bee", "cat")))
    )
    assert leakage.find(first, second)["exact"] == 16
    assert leakage.find(first, second)["other_labels"] == 0
    swapped = dataclasses.replace(second, classes=("cat", "bee"))
    assert leakage.find(first, swapped)["other_labels"] == 16
    bare = dataclasses.replace(second, classes=())
    assert leakage.find(first, bare)["other_labels"] == 0
