"""Leakage: detects evaluation images that also occur in the training data, exactly or nearly."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
import PIL.Image

from cssl_jax.data.cleaning.near_duplicates import near_pairs
from cssl_jax.data.cleaning.scan import perceptual_hash
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources.base import Images, Source, row_bytes
from cssl_jax.data.sources.classes import is_numbered
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.results import Leakage
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.image import IMAGE

# Minimum correlation of two images at 32 x 32 that counts as nearly identical. Copies that are
# re-encoded or resized stay above 0.99. Of the embedded digits, which are as similar as different
# images get, no two with the same hash reach this value.
CORRELATION = 0.985
NAMED = 20  # maximum number of leaking pairs that are listed by name


def find(train: Source, test: Source, modality: Modality = IMAGE) -> Leakage:
    """Finds the test images that also occur among the training images.

    An exact copy has the same bytes: of the file, or of the pixels if one of the sources does not
    read files. A near copy has a perceptual hash within ``near_duplicates.DISTANCE`` bits and a
    correlation of at least ``CORRELATION`` in grey at 32 x 32. Near copies are images that were
    resized, re-encoded, brightened or turned to grey. Mirrored, rotated and cropped copies are not
    detected. Near copies are searched for among images only.

    Args:
        train: Images that were used for training.
        test: Images that metrics are reported on.
        modality: Modality of both sources.

    Returns:
        Numbers of leaking images, without a description; ``pairs`` has the names of the first
        ``NAMED`` pairs, and ``near`` is None if near copies are not searched for.

    Raises:
        UserError: The sources have different numbers of channels.
    """
    if not modality.images:
        copies = _exact_copies(_digests(train, modality), _digests(modality.members(test)[0]))
        copies = {j: (i % len(train), kind) for j, (i, kind) in copies.items()}
        return _report(train, test, copies, modality)
    train, test = cast(Images, train), cast(Images, test)
    if train.channels != test.channels:
        raise UserError(
            f"{train.name} has {train.channels} channels, {test.name} {test.channels}; read both "
            "with the same data.channels"
        )
    as_files = isinstance(train, ImageSource) and isinstance(test, ImageSource)
    train_digests, train_hashes = _hashes(train, as_files)
    test_digests, test_hashes = _hashes(test, as_files)
    copies = _exact_copies(train_digests, test_digests)
    # A hash only preselects candidates: different images can have hashes that are close.
    train_thumbnail, test_thumbnail = _Thumbnails(train), _Thumbnails(test)
    for i, j in near_pairs(train_hashes, test_hashes):
        if j not in copies and _correlation(train_thumbnail(i), test_thumbnail(j)) >= CORRELATION:
            copies[j] = (i, "near")
    return _report(train, test, copies, modality)


def _exact_copies(train: list[bytes], test: list[bytes]) -> dict[int, tuple[int, str]]:
    """Row of a test example -> (row of its first copy, "exact"), from the digests of both sets."""
    # Reversed, so that the first of several identical training examples is named.
    first_row = {digest: i for i, digest in reversed(list(enumerate(train)))}
    return {j: (first_row[digest], "exact") for j, digest in enumerate(test) if digest in first_row}


def _report(
    train: Source, test: Source, copies: dict[int, tuple[int, str]], modality: Modality
) -> Leakage:
    """Result of ``find`` from row of a test example -> (row of its copy, kind of the copy)."""
    kinds = [kind for _, kind in copies.values()]
    pairs = [
        {"test": _name(test, j, modality), "train": _name(train, i, modality), "kind": kind}
        for j, (i, kind) in sorted(copies.items())
    ]
    # ``from_json`` keeps a null number of near copies, so that results.json has its key.
    return Leakage.from_json(
        {
            "exact": kinds.count("exact"),
            "near": kinds.count("near") if modality.images else None,
            "test": len(test),
            "share": len(copies) / len(test),
            "other_labels": sum(_labels_differ(test, j, train, i) for j, (i, _) in copies.items()),
            "pairs": pairs[:NAMED],
        }
    )


def find_leakage(
    train: Source, test: Source, learnt_from: str, modality: Modality = IMAGE
) -> Leakage:
    """Finds leaking test images and describes the finding.

    Args:
        train: Images that were used for training.
        test: Images that metrics are reported on.
        learnt_from: Name of the training images for the description, a plural noun.
        modality: Modality of both sources.

    Returns:
        The result of ``find``, with its description as ``words``.

    Raises:
        UserError: The sources have different numbers of channels.

    Example:
        >>> from cssl_jax.data import ArraySource
        >>> images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
        >>> found = find_leakage(ArraySource("a", images), ArraySource("b", images[:1]), "images")
        >>> found.exact, found.share
        (1, 1.0)
    """
    finding = find(train, test, modality)
    words = describe_leakage(finding, learnt_from, modality.noun)
    return dataclasses.replace(finding, words=words)


def describe_leakage(
    finding: Leakage, learnt_from: str = "training images", noun: str = "images"
) -> str:
    """Describes the result of ``find`` in one or two sentences.

    Args:
        finding: Result of ``find``.
        learnt_from: Name of the training examples, a plural noun.
        noun: Name of the examples, a plural noun.
    """
    searched = finding.near is not None
    leaking = finding["exact"] + (finding.near or 0)
    if not leaking:
        return (
            f"no leakage found: none of the {finding['test']:,} test {noun} is among the "
            f"{learnt_from}, exactly{' or nearly' if searched else ''}"
        )
    pair = finding["pairs"][0]
    nearly = f", {finding.near:,} nearly" if searched else ""
    other_labels = (
        f"; {finding['other_labels']:,} of them with another label"
        if finding["other_labels"]
        else ""
    )
    return (
        f"LEAKAGE: {leaking:,} of {finding['test']:,} test {noun} "
        f"({100 * finding['share']:.1f} %) are among the {learnt_from}: {finding['exact']:,} "
        f"exactly{nearly}{other_labels}. Example: {pair['test']} = "
        f"{pair['train']}. The metrics are too high; remove the copies"
    )


def is_among(source: Source, others: Source, modality: Modality) -> np.ndarray:
    """Marks the examples of ``source`` that also occur in ``others``.

    Args:
        source: N examples to look up.
        others: Examples to look them up in.
        modality: Modality of both. Images are compared as files if both are, else as pixels.

    Returns:
        bool [N].
    """
    if modality.images:
        as_files = isinstance(source, ImageSource) and isinstance(others, ImageSource)
        digests, other_digests = (_hashes(cast(Images, s), as_files)[0] for s in (source, others))
    else:
        digests = _digests(modality.members(source)[0])
        other_digests = _digests(others, modality)
    known_digests = set(other_digests)
    return np.array([digest in known_digests for digest in digests], bool)


def _digests(source: Source, modality: Modality | None = None) -> list[bytes]:
    """Digests of the bytes and shapes of all examples of arrays in memory.

    With a modality, of all their members, those of one after those of another.
    """
    if modality is not None:
        return [digest for member in modality.members(source) for digest in _digests(member)]
    digests = []
    for block in source.blocks(1024, 0):
        leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(block)]
        key = str([leaf.shape[1:] for leaf in leaves]).encode()[:64]
        for row in range(len(leaves[0])):
            digest = hashlib.blake2b(digest_size=16, key=key)
            for leaf in leaves:
                digest.update(row_bytes(leaf[row]))
            digests.append(digest.digest())
    return digests


def _hashes(source: Images, as_files: bool) -> tuple[list[bytes], np.ndarray]:
    """Digests and perceptual hashes uint64 [n] of all images.

    Args:
        source: The n images.
        as_files: Whether digests are those of the files, known from the index, or of the pixels.
    """
    if isinstance(source, ImageSource):
        hashes = source.index.phash[source.numbers]
        if as_files:
            return [row.tobytes() for row in source.index.digest[source.numbers]], hashes

    def digest_and_hash(index: int) -> tuple[bytes, int]:
        image = np.ascontiguousarray(source.image(index))
        digest = hashlib.blake2b(image.data, digest_size=16, key=str(image.shape).encode()).digest()
        return digest, perceptual_hash(image)

    pairs = list(map_ahead(digest_and_hash, range(len(source))))
    return [digest for digest, _ in pairs], np.array([phash for _, phash in pairs], np.uint64)


class _Thumbnails:
    """Centred grey values float32 [1024] of a source's images at 32 x 32; each is read once."""

    def __init__(self, source: Images) -> None:
        self._read: Callable[[int], np.ndarray] = source.image
        self._cache: dict[int, np.ndarray] = {}

    def __call__(self, index: int) -> np.ndarray:
        if index not in self._cache:
            pixels = self._read(index)
            # At most three channels: a fourth one is not colour.
            grey = pixels[..., : min(3, pixels.shape[-1])].mean(axis=-1, dtype=np.float32)
            image = PIL.Image.fromarray(grey).resize((32, 32), PIL.Image.Resampling.BOX)
            thumbnail = np.asarray(image, np.float32).ravel()
            self._cache[index] = thumbnail - thumbnail.mean()
        return self._cache[index]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two centred vectors; 0 if one is constant."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _name(source: Source, index: int, modality: Modality) -> str:
    return f"{modality.one} {index}" if source.names is None else str(source.names[index])


def _labels_differ(test: Source, j: int, train: Source, i: int) -> bool:
    """Whether test image j and training image i have labels that contradict each other.

    Two sources may number their classes differently. Classes with names are therefore compared by
    name, and only if both sources have both names. A name and a bare number never contradict each
    other.
    """
    test_label, train_label = _label(test, j), _label(train, i)
    if min(test_label, train_label) < 0:
        return False
    if is_numbered(test.classes) and is_numbered(train.classes):
        return test_label != train_label
    if is_numbered(test.classes) or is_numbered(train.classes):
        return False
    test_name, train_name = test.classes[test_label], train.classes[train_label]
    return test_name != train_name and test_name in train.classes and train_name in test.classes


def _label(source: Source, index: int) -> int:
    """Class of an example; -1 without a label."""
    return -1 if source.labels is None else int(source.labels[index])
