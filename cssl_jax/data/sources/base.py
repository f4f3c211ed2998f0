"""Random-access sources of examples: the contract, and arrays in memory."""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from cssl_jax.data import sampler
from cssl_jax.errors import UserError

Rejected = tuple[tuple[str, str, str], ...]  # (name, reason, detail) of what was left out


class Source(Protocol):
    """Examples by number, as training and evaluation read them.

    Attributes:
        name: For messages and results.
        labels: int64 [size] in [0, num_classes), -1 for none; or None where nothing is labelled.
        rejected: What the cleaning left out, of the whole set that this is a part of.
        names: str [size], of every example (a file's path); or None.
        channels: Of every image.
        sizes: int32 [size, 2], height and width of every image in pixels.
        num_classes: Number of labels; 0 without labels.
        classes: Class names in the order of their numbers; () where labels are numbers or missing.
        notes: Sentences on what was read and what was not, for the first lines of a run.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def rejected(self) -> Rejected: ...  # noqa: D102
    @property
    def names(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def sizes(self) -> np.ndarray: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Tells sets apart, wherever they lie: by size and a checksum of all bytes and labels."""
        ...

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel, on the scale [0, 1]."""
        ...

    def take(self, index: np.ndarray) -> "Source":
        """The examples at ``index`` int [n], in that order."""
        ...

    def renumbered(self, to: np.ndarray, classes: tuple[str, ...], note: str = "") -> "Source":
        """The same examples with other numbers for their classes; see ``classes.number_alike``.

        Args:
            to: int [num_classes], new number of every class, -1 to take its label away.
            classes: Class names in the order of the new numbers.
            note: Sentence to add to ``notes``; "" is none.
        """
        ...

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """One image, uint8 [h, w, C]; called from many threads at once.

        Args:
            index: Of the image.
            halvings: How often its sides are halved in decoding; see ``host_draws.draws``.
            memory: uint8 [n] that the image may be written to, where it fits.
        """
        ...

    def blocks(self, rows: int, size: int) -> Iterator[np.ndarray]:
        """All images in order, uint8 [r, h, w, C], at most ``rows`` at a time.

        Arrays come as they are, pictures of any size as the centre square at ``size`` pixels.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images in memory, all of one size.

    Attributes:
        name: For messages and results.
        images: uint8 [size, H, W, C].
        labels: int64 [size] in [0, num_classes), -1 for none; or None.
        names: str [size], of every image's file, where these were picture files.
        rejected: What the cleaning left out, likewise.
        classes: Class names in the order of their numbers; () where labels are numbers or missing.
        notes: Sentences on what was read and what was not.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    rejected: Rejected = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Of every image."""
        return self.images.shape[-1]

    @property
    def sizes(self) -> np.ndarray:
        """int32 [size, 2], all alike."""
        return np.broadcast_to(np.array(self.images.shape[1:3], np.int32), (len(self), 2))

    @property
    def num_classes(self) -> int:
        """Number of class names, else one more than the largest label; 0 without labels."""
        if self.labels is None:
            return 0
        return len(self.classes) or int(self.labels.max(initial=-1)) + 1

    def fingerprint(self) -> str:
        """Tells sets apart: size, shape, labels or none, and a checksum of all bytes."""
        check = zlib.crc32(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            check = zlib.crc32(np.ascontiguousarray(self.labels).data, check)
        labels = "unlabelled" if self.labels is None else "labelled"
        return f"{list(self.images.shape)} {labels} {check:08x}"

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Over all pixels; see ``channel_statistics``."""
        return channel_statistics(self.images)

    def take(self, index: np.ndarray) -> "ArraySource":
        """The examples at ``index`` int [n], in that order."""
        labels = None if self.labels is None else self.labels[index]
        names = None if self.names is None else self.names[index]
        return dataclasses.replace(self, images=self.images[index], labels=labels, names=names)

    def renumbered(self, to: np.ndarray, classes: tuple[str, ...], note: str = "") -> "ArraySource":
        """The same images with other numbers for their classes; see ``Source.renumbered``."""
        labels = None if self.labels is None else new_numbers(self.labels, to)
        notes = (*self.notes, note) if note else self.notes
        return dataclasses.replace(self, labels=labels, classes=classes, notes=notes)

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """One image, uint8 [H, W, C]; decoded already, so never halved."""
        assert not halvings
        return self.images[index]

    def blocks(self, rows: int, size: int) -> Iterator[np.ndarray]:
        """All images in order and as they are, at most ``rows`` at a time."""
        for start in range(0, len(self), rows):
            yield self.images[start : start + rows]


def new_numbers(labels: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Labels int64 [n], -1 for none, by the new number of every old one; see ``renumbered``."""
    return np.where(labels < 0, -1, to[labels]).astype(np.int64)


def seeded_subset(source: Source, limit: int, *, seed: int) -> Source:
    """At most ``limit`` examples, chosen by the seed and in order.

    The first rows of a set that is sorted by class would lack classes.
    """
    if len(source) <= limit:
        return source
    order = sampler.permute(np.arange(len(source)), sampler.epoch_key(seed, 0), len(source))
    return source.take(np.sort(order[:limit]).astype(np.int64))


def labelled_fraction(source: Source, fraction: float, *, seed: int) -> Source:
    """A keyed share of each class's labelled examples, at least one of each, in order.

    A larger share of the same seed holds every smaller one.

    Args:
        source: With labels, -1 for none.
        fraction: Within (0, 1].
        seed: Of the choice.
    """
    labels = np.asarray(source.labels)
    rank = sampler.permute(np.arange(len(source)), sampler.epoch_key(seed, 2), len(source))
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members])]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return source.take(np.sort(np.concatenate(chosen)).astype(np.int64))


def split(size: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits [0, size) by a keyed permutation: (training, validation) indices, each sorted.

    Raises:
        UserError: The fraction is outside [0, 1), or leaves a part empty that should not be.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"data.validation_fraction is {fraction}; give a share within [0, 1)")
    held_out = round(size * fraction)
    if held_out == size or (fraction > 0.0 and held_out == 0):
        raise UserError(
            f"data.validation_fraction {fraction} of {size} images leaves {held_out} to validate "
            f"on and {size - held_out} to train on; neither part may be empty"
        )
    order = sampler.permute(np.arange(size), sampler.epoch_key(seed, 0), size)
    return np.sort(order[held_out:]).astype(np.int64), np.sort(order[:held_out]).astype(np.int64)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of uint8 [N, H, W, C], on the scale [0, 1].

    A constant channel gets a standard deviation of 1/255, one grey level, so that dividing by it is
    safe.
    """
    channels = images.shape[-1]
    # Exact from counts of the 256 values, whatever the size and without a float copy of the images.
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(channels):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(max(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())), 1 / 255))
    return tuple(means), tuple(stds)
