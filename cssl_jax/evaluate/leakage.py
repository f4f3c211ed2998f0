"""Is what is reported on also in what was learnt from? Same pictures, and nearly the same ones."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.data.cleaning.near_duplicates import near_pairs
from cssl_jax.data.cleaning.scan import perceptual_hash
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.classes import is_numbered
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.errors import UserError

# Of two pictures at 32 x 32. Encoded again or resized they stay above 0.99; of the embedded digits,
# which are as like as different pictures get, none of one hash reaches it.
CORRELATION = 0.985
NAMED = 20  # pairs that are named


def find(train: Source, test: Source) -> dict[str, Any]:
    """Looks for the pictures of one part in another.

    Exact: the same bytes of the file, or of the pixels where one part is no files. Near: perceptual
    hashes within ``near.DISTANCE`` bits and then, looked at themselves, a correlation of at least
    ``CORRELATION`` in grey at 32 x 32: a copy resized, encoded again, brighter or in grey. Not
    found are copies that are mirrored, turned or cropped.

    Args:
        train: What was learnt from.
        test: What is reported on.

    Returns:
        {"exact": test pictures that are in ``train``, "near": those that nearly are, "test":
        how many there are, "share": of them that leak, "other_labels": leaking ones that have
        another label than their copy, "pairs": [{"test", "train", "kind"}], the first ``NAMED``}.

    Raises:
        UserError: The parts have other numbers of channels.
    """
    if train.channels != test.channels:
        raise UserError(
            f"{train.name} has {train.channels} channels, {test.name} {test.channels}; read both "
            "with the same data.channels"
        )
    as_files = isinstance(train, ImageSource) and isinstance(test, ImageSource)
    (seen, seen_hash), (digests, hashes) = (_hashes(part, as_files) for part in (train, test))
    first = {digest: i for i, digest in reversed(list(enumerate(seen)))}
    found = {j: (first[digest], "exact") for j, digest in enumerate(digests) if digest in first}
    small = _Small(train), _Small(test)
    for i, j in near_pairs(seen_hash, hashes):
        if j not in found and _correlation(small[0](i), small[1](j)) >= CORRELATION:
            found[j] = (i, "near")
    kinds = [kind for _, kind in found.values()]
    pairs = [
        {"test": _name(test, j), "train": _name(train, i), "kind": kind}
        for j, (i, kind) in sorted(found.items())
    ]
    return {
        "exact": kinds.count("exact"),
        "near": kinds.count("near"),
        "test": len(test),
        "share": len(found) / len(test),
        "other_labels": sum(_differ(test, j, train, i) for j, (i, _) in found.items()),
        "pairs": pairs[:NAMED],
    }


def find_leakage(train: Source, test: Source, learnt_from: str) -> dict[str, Any]:
    """``find`` with its ``words``."""
    found = find(train, test)
    return {**found, "words": words(found, learnt_from)}


def words(found: dict[str, Any], learnt_from: str = "training images") -> str:
    """The finding in a sentence or two."""
    leaking = found["exact"] + found["near"]
    if not leaking:
        return (
            f"no leakage found: none of the {found['test']:,} test images is among the "
            f"{learnt_from}, exactly or nearly"
        )
    pair = found["pairs"][0]
    also = (
        f"; {found['other_labels']:,} of them with another label" if found["other_labels"] else ""
    )
    return (
        f"LEAKAGE: {leaking:,} of {found['test']:,} test images ({100 * found['share']:.1f} %) are "
        f"among the {learnt_from}: {found['exact']:,} exactly, {found['near']:,} nearly{also}. "
        f"Such as {pair['test']} = {pair['train']}. Figures are too good to be true; take them out"
    )


def is_among(source: Source, others: Source) -> np.ndarray:
    """Bool [size of ``source``]: whether an image is also in ``others``, with the same pixels."""
    as_files = isinstance(source, ImageSource) and isinstance(others, ImageSource)
    (digests, _), (known, _) = _hashes(source, as_files), _hashes(others, as_files)
    found = set(known)
    return np.array([digest in found for digest in digests], bool)


def _hashes(source: Source, as_files: bool) -> tuple[list[bytes], np.ndarray]:
    """(digests, perceptual hashes uint64 [n]) of all pictures."""
    if isinstance(source, ImageSource):
        hashes = source.index.phash[source.numbers]
        if as_files:
            return [row.tobytes() for row in source.index.digest[source.numbers]], hashes

    def digest_and_hash(index: int) -> tuple[bytes, int]:
        image = np.ascontiguousarray(source.image(index))
        digest = hashlib.blake2b(image.data, digest_size=16, key=str(image.shape).encode()).digest()
        return digest, perceptual_hash(image)

    looks = list(ahead(digest_and_hash, range(len(source))))
    return [digest for digest, _ in looks], np.array([found for _, found in looks], np.uint64)


class _Small:
    """A source's pictures in grey at 32 x 32, centred; each is read once."""

    def __init__(self, source: Source) -> None:
        self._read: Callable[[int], np.ndarray] = source.image
        self._known: dict[int, np.ndarray] = {}

    def __call__(self, index: int) -> np.ndarray:
        if index not in self._known:
            pixels = self._read(index)
            grey = pixels[..., : min(3, pixels.shape[-1])].mean(axis=-1, dtype=np.float32)
            image = PIL.Image.fromarray(grey).resize((32, 32), PIL.Image.Resampling.BOX)
            small = np.asarray(image, np.float32).ravel()
            self._known[index] = small - small.mean()
        return self._known[index]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else 0.0


def _name(source: Source, index: int) -> str:
    return f"image {index}" if source.names is None else str(source.names[index])


def _differ(test: Source, j: int, train: Source, i: int) -> bool:
    """Whether two examples have labels that contradict each other.

    Two sources may number their classes differently: names are compared by name, and only where
    both sources know them. Names and bare numbers cannot contradict each other.
    """
    label, other = _label(test, j), _label(train, i)
    if min(label, other) < 0:
        return False
    if is_numbered(test.classes) and is_numbered(train.classes):
        return label != other
    if is_numbered(test.classes) or is_numbered(train.classes):
        return False
    name, of_copy = test.classes[label], train.classes[other]
    return name != of_copy and name in train.classes and of_copy in test.classes


def _label(source: Source, index: int) -> int:
    return -1 if source.labels is None else int(source.labels[index])
