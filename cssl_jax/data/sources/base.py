"""Interface of all data sources, the source of arrays in memory, and functions on sources."""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

import jax
import numpy as np

from cssl_jax.data import sampler
from cssl_jax.errors import UserError

Examples = Any  # tree of arrays with one row per example, such as {"image": uint8 [n, H, W, C]}
Rejected = tuple[tuple[str, str, str], ...]  # (name, reason, detail) per excluded image


class Source(Protocol):
    """Examples by index, as training and evaluation read them.

    Attributes:
        name: Name of the source in messages and results.
        labels: int64 [size], class number of every example in [0, num_classes), -1 for no label;
            None if no example has a label.
        rejected: Images that the cleaning excluded, of the whole set and not only of this subset.
        names: str [size], name of every example, such as the path of its file; None without names.
        num_classes: Number of classes; 0 without labels.
        classes: Class names in the order of the class numbers; () if the labels are numbers without
            names, or missing.
        notes: Sentences for the first lines of a run, about the quality of the images and about
            files that are not read.
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
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Text that identifies the set on any machine: size, checksum of examples and labels."""
        ...

    def take(self, index: np.ndarray) -> Self:
        """Source of the examples at ``index``, int [n], in that order."""
        ...

    def renumber_classes(self, to: np.ndarray, classes: tuple[str, ...], note: str = "") -> Self:
        """Source of the same examples with new class numbers; see ``classes.align_class_numbers``.

        Args:
            to: int [num_classes], new number of every class, -1 to remove the label.
            classes: Class names in the order of the new numbers.
            note: Sentence to add to ``notes``; "" adds none.
        """
        ...

    def blocks(self, rows: int, size: int, interpolation: str = "bilinear") -> Iterator[Examples]:
        """Yields all examples in order, as trees of arrays [r, ...] with r <= ``rows``.

        Args:
            rows: Maximum number of examples per block.
            size: Side in pixels. Encoded images become their centre square of this side; arrays in
                memory keep their size.
            interpolation: Kernel that encoded images are resized with, "bilinear" or "bicubic".

        Yields:
            The next r examples; images are {"image": uint8 [r, h, w, C]}.
        """
        ...


class Images(Source, Protocol):
    """Images by index, in memory or encoded.

    Attributes:
        channels: Number of channels of every image.
        sizes: int32 [size, 2], height and width of every image in pixels.
    """

    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def sizes(self) -> np.ndarray: ...  # noqa: D102

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, on the scale [0, 1]."""
        ...

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """Reads one image. Several threads may call this at once.

        Args:
            index: Index of the image.
            halvings: Number of times that decoding halves the sides, 0 for full size; see
                ``host_draws.draws``.
            memory: uint8 [n], buffer that the image may be written to if it fits; None allocates
                one.

        Returns:
            uint8 [h, w, C].
        """
        ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Examples in memory, all of one shape.

    Attributes:
        name: Name of the source in messages and results.
        examples: Tree of arrays [size, ...]: a dictionary of arrays by name, such as {"image":
            uint8 [size, H, W, C]}, {"values": float32 [size, T, C], "length": int32 [size]} or
            {"text": object [size]}, str each. A bare array is taken as the images.
        labels: int64 [size], class number of every example in [0, num_classes), -1 for no label;
            None if no example has a label.
        names: str [size], name of the file of every example; None if they are not from files.
        rejected: Images that the cleaning excluded; () if the examples are not from files.
        classes: Class names in the order of the class numbers; () if the labels are numbers without
            names, or missing.
        notes: Sentences about the quality of the examples and about files that are not read.
        groups: str [size], group of every example, such as a patient, which no split divides; None
            without groups.

    Raises:
        ValueError: The arrays differ in their number of rows.
    """

    name: str
    examples: Examples
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    rejected: Rejected = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.examples, Mapping):
            object.__setattr__(self, "examples", {"image": self.examples})
        sizes = {len(leaf) for leaf in jax.tree.leaves(self.examples)}
        if len(sizes) != 1:
            raise ValueError(f"{self.name}: arrays of {sorted(sizes)} rows; give one row each")

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.examples)[0])

    @property
    def nbytes(self) -> int:
        """Size of the examples in bytes."""
        leaves = jax.tree.leaves(self.examples)
        return sum(_nbytes(leaf) for leaf in leaves)

    @property
    def images(self) -> np.ndarray:
        """Images uint8 [size, H, W, C] of a source of images."""
        images: np.ndarray = self.examples["image"]
        return images

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return int(self.images.shape[-1])

    @property
    def sizes(self) -> np.ndarray:
        """int32 [size, 2], height and width of every image in pixels; all rows are identical."""
        return np.broadcast_to(np.array(self.images.shape[1:3], np.int32), (len(self), 2))

    @property
    def num_classes(self) -> int:
        """Number of class names, or the largest label plus 1 without names; 0 without labels."""
        if self.labels is None:
            return 0
        return len(self.classes) or int(self.labels.max(initial=-1)) + 1

    def fingerprint(self) -> str:
        """Text that identifies the set: shapes, labelled or not, CRC-32 of examples and labels."""
        leaves, check = jax.tree.leaves(self.examples), 0  # in the order of their names
        if self.labels is not None:
            leaves.append(self.labels)
        if self.groups is not None:
            leaves.append(np.char.encode(self.groups, "utf-8"))
        for leaf in leaves:
            if leaf.dtype == object:
                for text in leaf:
                    check = zlib.crc32(row_bytes(text) + b"\0", check)
            else:
                check = zlib.crc32(np.ascontiguousarray(leaf).data, check)
        labels = "unlabelled" if self.labels is None else "labelled"
        shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(self.examples))
        return f"{shapes} {labels} {check:08x}"

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of images; see ``channel_statistics``."""
        return channel_statistics(self.images)

    def take(self, index: np.ndarray) -> Self:
        """Source of the examples at ``index``, int [n], in that order."""
        examples = jax.tree.map(lambda leaf: leaf[index], self.examples)
        labels = None if self.labels is None else self.labels[index]
        names = None if self.names is None else self.names[index]
        groups = None if self.groups is None else self.groups[index]
        return dataclasses.replace(
            self, examples=examples, labels=labels, names=names, groups=groups
        )

    def renumber_classes(self, to: np.ndarray, classes: tuple[str, ...], note: str = "") -> Self:
        """Source of the same examples with new class numbers; see ``Source.renumber_classes``."""
        labels = None if self.labels is None else new_numbers(self.labels, to)
        notes = (*self.notes, note) if note else self.notes
        return dataclasses.replace(self, labels=labels, classes=classes, notes=notes)

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """One image, uint8 [H, W, C]. ``halvings`` must be 0, because nothing is decoded."""
        assert not halvings
        image: np.ndarray = self.images[index]
        return image

    def blocks(self, rows: int, size: int, interpolation: str = "bilinear") -> Iterator[Examples]:
        """Yields all examples in order and at their size, at most ``rows`` per block."""
        for start in range(0, len(self), rows):
            yield jax.tree.map(lambda leaf, i=start: leaf[i : i + rows], self.examples)


def _nbytes(leaf: np.ndarray) -> int:
    return sum(len(text.encode()) for text in leaf) if leaf.dtype == object else leaf.nbytes


def row_bytes(value: Any) -> bytes:
    """Bytes of one row of an array of numbers, or of one text of an array of texts."""
    return value.encode("utf-8") if isinstance(value, str) else np.asarray(value).tobytes()


def new_numbers(labels: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Replaces class numbers; see ``Source.renumber_classes``.

    Args:
        labels: int64 [n], -1 for no label.
        to: int [num_classes], new number of every class, -1 to remove the label.

    Returns:
        int64 [n], -1 for no label.
    """
    return np.where(labels < 0, -1, to[labels]).astype(np.int64)


def seeded_subset(source: Source, limit: int, *, seed: int) -> Source:
    """Draws at most ``limit`` examples by the seed, and keeps their order.

    The first ``limit`` examples are no substitute: in a set sorted by class they lack classes.
    """
    if len(source) <= limit:
        return source
    order = sampler.permute(np.arange(len(source)), sampler.epoch_key(seed, 0), len(source))
    return source.take(np.sort(order[:limit]).astype(np.int64))


def labelled_fraction(source: Source, fraction: float, *, seed: int) -> Source:
    """Draws a fraction of the labelled examples of every class, and keeps their order.

    Every class keeps at least one example. With the same seed, a larger fraction contains all
    examples of a smaller one.

    Args:
        source: Source with labels, -1 for no label.
        fraction: Fraction of the labelled examples per class, in (0, 1].
        seed: Seed of the permutation that decides which examples are drawn.
    """
    labels = np.asarray(source.labels)
    rank = sampler.permute(np.arange(len(source)), sampler.epoch_key(seed, 2), len(source))
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members])]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return source.take(np.sort(np.concatenate(chosen)).astype(np.int64))


def groups_of(source: Source) -> np.ndarray | None:
    """Group of every example, str [size]; None for a source without groups."""
    groups: np.ndarray | None = getattr(source, "groups", None)
    return groups


def split(
    size: int, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices 0 to ``size`` - 1 into training and validation by a seeded permutation.

    Args:
        size: Number of examples.
        fraction: Fraction of the examples for validation, in [0, 1).
        seed: Seed of the permutation.
        groups: Group of every example, str [size]. Groups are held out as a whole: in the order of
            the permutation, every group that brings the number of held-out examples nearer to the
            fraction. None: every example is a group of its own.

    Returns:
        (training, validation): int64 indices, each sorted.

    Raises:
        UserError: The fraction is outside [0, 1), or it leaves no example for training, or none for
            validation although it is not 0.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"data.validation_fraction is {fraction}; give a fraction in [0, 1)")
    if groups is not None and fraction > 0.0:
        is_held = np.isin(groups, _held_out_groups(groups, fraction, seed))
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)
    held_out = round(size * fraction)
    if held_out == size or (fraction > 0.0 and held_out == 0):
        raise UserError(
            f"data.validation_fraction {fraction} of {size} examples leaves {held_out} for "
            f"validation and {size - held_out} for training; neither split may be empty"
        )
    order = sampler.permute(np.arange(size), sampler.epoch_key(seed, 0), size)
    return np.sort(order[held_out:]).astype(np.int64), np.sort(order[:held_out]).astype(np.int64)


def _held_out_groups(groups: np.ndarray, fraction: float, seed: int) -> list[str]:
    """Names of the groups for validation, at least one and not all of them."""
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise UserError(
            f"all {len(groups)} examples are of group {str(names[0])!r}, and a split keeps a group "
            "together; set data.validation_source, or give data without groups"
        )
    order = sampler.permute(np.arange(len(names)), sampler.epoch_key(seed, 0), len(names))
    wanted, total = len(groups) * fraction, 0
    held: list[str] = []
    for number in order:
        if len(held) < len(names) - 1 and 2 * (wanted - total) > counts[number]:
            held.append(str(names[number]))
            total += counts[number]
    return held or [str(names[np.argmin(counts)])]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the scale [0, 1].

    The standard deviation is at least 1/255, one grey level, so that division by it is safe for a
    constant channel.

    Args:
        images: uint8 [N, H, W, C].

    Returns:
        (means, standard deviations), each of length C.
    """
    channels = images.shape[-1]
    # Counting the 256 values is exact for any number of images and needs no float copy of them.
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(channels):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(max(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())), 1 / 255))
    return tuple(means), tuple(stds)
