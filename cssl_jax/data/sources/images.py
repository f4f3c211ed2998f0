"""Encoded pictures of any size as a source: cleaned once, decoded when they are needed."""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import zlib
from collections.abc import Iterator

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning import scan
from cssl_jax.data.cleaning.quality import quality_notes
from cssl_jax.data.formats.base import Records
from cssl_jax.data.formats.image_folder import FileRecords
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.data.sources import decode, jpeg
from cssl_jax.data.sources.base import ArraySource, Rejected, Source, new_numbers
from cssl_jax.errors import RunError, UserError
from cssl_jax.files import cache_folder, to_bytes

IN_MEMORY_LIMIT = 2**30  # bytes of decoded pictures that are kept without being asked to


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """The pictures of some records that the scan kept, or a part of them.

    Attributes:
        records: Where the encoded pictures lie.
        index: What the scan found; one entry a record.
        numbers: int64 [size], which records these are.
        channels: To which every picture is brought.
        numbering: New number of every class of the records and the names in the order of the new
            numbers; None keeps the records' own.
        added_notes: Sentences beside the records' own.
    """

    records: Records
    index: scan.Index
    numbers: np.ndarray
    channels: int
    numbering: tuple[np.ndarray, tuple[str, ...]] | None = None
    added_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def name(self) -> str:
        """Of the records."""
        return self.records.name

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int64 [size], -1 for none; None where nothing is labelled."""
        if self.records.labels is None:
            return None
        labels = self.records.labels[self.numbers]
        return labels if self.numbering is None else new_numbers(labels, self.numbering[0])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the whole set, in the order of their numbers."""
        return self.records.classes if self.numbering is None else self.numbering[1]

    @property
    def num_classes(self) -> int:
        """Classes of the whole set, whether or not this split has images of them."""
        return len(self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was read and what was not."""
        return (*getattr(self.records, "notes", ()), *self.added_notes)

    @property
    def rejected(self) -> Rejected:
        """(name, reason, detail) of what the scan left out."""
        return scan.rejected(self.records.names, self.index)

    @functools.cached_property
    def names(self) -> np.ndarray:
        """Str [size], of the records."""
        return np.array([self.records.names[number] for number in self.numbers], str)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int32 [size, 2], height and width after orientation."""
        sizes = np.stack([self.index.height, self.index.width], axis=1)[self.numbers]
        return sizes.astype(np.int32)  # a kept picture has max_pixels at most

    @functools.cached_property
    def plain_jpeg(self) -> np.ndarray:
        """Bool [size]: TensorFlow's decoder gives the same pixels."""
        return self.index.plain_jpeg[self.numbers]

    def fingerprint(self) -> str:
        """Tells sets apart: size, channels, labels or none, a checksum of all files' digests."""
        check = zlib.crc32(np.ascontiguousarray(self.index.digest[self.numbers]).data)
        if self.labels is not None:
            check = zlib.crc32(np.ascontiguousarray(self.labels).data, check)
        labels = "unlabelled" if self.labels is None else "labelled"
        return f"[{len(self)}, *, *, {self.channels}] {labels} {check:08x}"

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel on [0, 1]; every picture counts alike."""
        mean = self.index.mean[self.numbers].mean(axis=0)
        variance = self.index.square[self.numbers].mean(axis=0) - mean**2
        std = np.maximum(np.sqrt(np.maximum(variance, 0.0)), 1 / 255)
        return tuple(mean.tolist()), tuple(std.tolist())

    def take(self, index: np.ndarray) -> "ImageSource":
        """The examples at ``index`` int [n], in that order."""
        return dataclasses.replace(self, numbers=self.numbers[index])

    def renumbered(self, to: np.ndarray, classes: tuple[str, ...], note: str = "") -> "ImageSource":
        """The same images with other numbers for their classes; see ``Source.renumbered``."""
        if self.numbering is not None:  # the records' classes by way of the present numbers
            to = new_numbers(self.numbering[0], to)
        notes = (*self.added_notes, note) if note else self.added_notes
        return dataclasses.replace(self, numbering=(to, classes), added_notes=notes)

    def encoded(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            RunError: It can no longer be read.
        """
        number = int(self.numbers[index])
        try:
            return self.records.read(number)
        except OSError as error:
            raise RunError(
                f"{self.name}: {self.records.names[number]} can no longer be read: {error}; "
                "restore it and run the same command to go on"
            ) from error

    @functools.cached_property
    def files(self) -> np.ndarray | None:
        """Bytes [size], paths for those who read files themselves; None where none is a file."""
        if not isinstance(self.records, FileRecords):
            return None
        return np.array([os.fsencode(self.records.path(int(n))) for n in self.numbers])

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """One picture, uint8 [h, w, C].

        Args:
            index: Of the picture.
            halvings: How often its sides are to be halved in decoding, up to 3; a ``plain_jpeg``
                only. Odd sides are rounded up.
            memory: uint8 [n] that the image may be written to.

        Raises:
            RunError: It is no longer what the scan saw.
        """
        content = self.encoded(index)
        number = int(self.numbers[index])
        height, width = int(self.index.height[number]), int(self.index.width[number])
        expected = (-(-height >> halvings), -(-width >> halvings), self.channels)
        if self.plain_jpeg[index]:
            decoded = jpeg.decode(content, expected, memory)
            if decoded is not None:
                return decoded
        try:
            image = decode.decode(content, self.channels, halvings)
        except decode.ImageError as error:
            raise self._changed(number, str(error)) from error
        if image.shape != expected:
            raise self._changed(number, f"it is {image.shape}, it was {expected}")
        return image

    def blocks(self, rows: int, size: int) -> Iterator[np.ndarray]:
        """Centre squares in order, uint8 [r, size, size, C], at most ``rows`` at a time."""
        squares = ahead(lambda i: _square(self.image(i), size), range(len(self)))
        while block := list(itertools.islice(squares, rows)):
            yield np.stack(block)

    def _changed(self, number: int, detail: str) -> RunError:
        return RunError(
            f"{self.name}: {self.records.names[number]} has changed since the run began: {detail}; "
            "restore it and run the same command to go on"
        )


def _square(image: np.ndarray, size: int) -> np.ndarray:
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return decode.resize(image[top : top + side, left : left + side], size, "bilinear")


def load_images(records: Records, options: ImageOptions) -> Source:
    """Scans the records (once, cached) and makes a source of what is kept.

    Pictures of one size that fit in memory are decoded now and become an ``ArraySource``, which the
    device augments; see ``options.in_memory``.

    Raises:
        UserError: More than a share ``max_rejected`` is left out, or nothing is left.
    """
    index = scan.scan(
        records,
        channels=options.channels,
        min_side=options.min_side,
        max_pixels=options.max_pixels,
        cache=cache_path(records, options.channels),
    )
    scan.check_share(index, records.name, options.max_rejected)
    notes = quality_notes(records.names, index)
    source = ImageSource(records, index, index.kept, options.channels, added_notes=notes)
    return _decoded(source) if _fits(source, options.in_memory) else source


def _fits(source: ImageSource, in_memory: bool | None) -> bool:
    if in_memory is False:
        return False
    sizes = source.sizes
    if (sizes == sizes[0]).all():
        size = len(source) * int(sizes[0].prod()) * source.channels
        return bool(in_memory) or size <= IN_MEMORY_LIMIT
    if in_memory:
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        raise UserError(
            f"data.in_memory needs pictures of one size; {source.name} has heights from {low[0]} "
            f"to {high[0]} px and widths from {low[1]} to {high[1]}; leave it out"
        )
    return False


def _decoded(source: ImageSource) -> ArraySource:
    images = np.empty((len(source), *source.sizes[0], source.channels), np.uint8)
    for number, image in enumerate(ahead(source.image, range(len(source)))):
        images[number] = image
    return ArraySource(
        source.name,
        images,
        source.labels,
        source.names,
        source.rejected,
        source.classes,
        source.notes,
    )


def cache_path(records: Records, channels: int) -> pathlib.Path:
    """Where the scan of these records is kept."""
    place = hashlib.blake2b(to_bytes(f"{records.name}|{channels}"), digest_size=10).hexdigest()
    return cache_folder("index") / f"{place}.npz"
