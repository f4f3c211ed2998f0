"""Source of encoded images of any size: cleaned once, decoded when they are read."""

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
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources import decode, jpeg
from cssl_jax.data.sources.base import ArraySource, Examples, Images, Rejected, new_numbers
from cssl_jax.errors import RunError, UserError
from cssl_jax.files import cache_folder, to_bytes

# Maximum bytes of decoded images to keep in memory if data.in_memory is None.
IN_MEMORY_LIMIT = 2**30


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Images of ``Records`` that the scan kept, or a subset of them.

    Attributes:
        records: Reader of the encoded images.
        index: Result of the scan, with one entry per record.
        numbers: int64 [size], index of the record of every image.
        channels: Number of channels that every image is converted to.
        numbering: (to, classes): int [number of classes of the records] with the new class number
            of every class, -1 for no label, and the class names in the order of the new numbers.
            None keeps the classes of the records.
        added_notes: Sentences to add to the notes of the records.
    """

    records: Records
    index: scan.ScanIndex
    numbers: np.ndarray
    channels: int
    numbering: tuple[np.ndarray, tuple[str, ...]] | None = None
    added_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def name(self) -> str:
        """Name of the records."""
        return self.records.name

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int64 [size], class number of every image, -1 for no label; None without labels."""
        if self.records.labels is None:
            return None
        labels = self.records.labels[self.numbers]
        return labels if self.numbering is None else new_numbers(labels, self.numbering[0])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the whole set, in the order of the class numbers."""
        return self.records.classes if self.numbering is None else self.numbering[1]

    @property
    def num_classes(self) -> int:
        """Number of classes of the whole set, including those without an image in this subset."""
        return len(self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the quality of the images and about files that are not read."""
        return (*getattr(self.records, "notes", ()), *self.added_notes)

    @property
    def rejected(self) -> Rejected:
        """(name, reason, detail) of every image of the whole set that the scan excluded."""
        return scan.rejected(self.records.names, self.index)

    @functools.cached_property
    def names(self) -> np.ndarray:
        """Str [size], name of the record of every image."""
        return np.array([self.records.names[number] for number in self.numbers], str)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int32 [size, 2], height and width in pixels after the EXIF orientation is applied."""
        sizes: np.ndarray = np.stack([self.index.height, self.index.width], axis=1)[self.numbers]
        return sizes.astype(np.int32)  # cannot overflow: a kept image has at most max_pixels

    @functools.cached_property
    def plain_jpeg(self) -> np.ndarray:
        """Bool [size], True for JPEGs that TensorFlow decodes to the same pixels as Pillow."""
        is_plain: np.ndarray = self.index.plain_jpeg[self.numbers]
        return is_plain

    def fingerprint(self) -> str:
        """Text that identifies the set: size, channels, labelled or not, and a checksum.

        The checksum is the CRC-32 of the digests of all files and of the labels.
        """
        check = zlib.crc32(np.ascontiguousarray(self.index.digest[self.numbers]).data)
        if self.labels is not None:
            check = zlib.crc32(np.ascontiguousarray(self.labels).data, check)
        labels = "unlabelled" if self.labels is None else "labelled"
        return f"[{len(self)}, *, *, {self.channels}] {labels} {check:08x}"

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel on [0, 1]; every image has the same weight."""
        mean = self.index.mean[self.numbers].mean(axis=0)
        variance = self.index.square[self.numbers].mean(axis=0) - mean**2
        std = np.maximum(np.sqrt(np.maximum(variance, 0.0)), 1 / 255)
        return tuple(mean.tolist()), tuple(std.tolist())

    def take(self, index: np.ndarray) -> "ImageSource":
        """Source of the images at ``index``, int [n], in that order."""
        return dataclasses.replace(self, numbers=self.numbers[index])

    def renumber_classes(
        self, to: np.ndarray, classes: tuple[str, ...], note: str = ""
    ) -> "ImageSource":
        """Source of the same images with new class numbers; see ``Source.renumber_classes``."""
        if self.numbering is not None:
            # ``to`` maps the present numbers. ``numbering`` maps the numbers of the records.
            to = new_numbers(self.numbering[0], to)
        notes = (*self.added_notes, note) if note else self.added_notes
        return dataclasses.replace(self, numbering=(to, classes), added_notes=notes)

    def encoded(self, index: int) -> bytes:
        """Reads the bytes of one encoded image.

        Raises:
            RunError: The image can no longer be read.
        """
        number = int(self.numbers[index])
        try:
            return self.records.read(number)
        except OSError as error:
            raise RunError(
                f"{self.name}: {self.records.names[number]} can no longer be read: {error}; "
                "restore it and run the same command to resume"
            ) from error

    @functools.cached_property
    def files(self) -> np.ndarray | None:
        """Bytes [size], path of every image, for readers other than this class.

        None if the images are not single files.
        """
        if not isinstance(self.records, FileRecords):
            return None
        return np.array([os.fsencode(self.records.path(int(n))) for n in self.numbers])

    def image(self, index: int, halvings: int = 0, memory: np.ndarray | None = None) -> np.ndarray:
        """Reads and decodes one image.

        Args:
            index: Index of the image.
            halvings: Number of times that decoding halves the sides, 0 (full size) to 3. Only a
                ``plain_jpeg`` can be halved. Odd sides are rounded up.
            memory: uint8 [n], buffer that the image may be written to; None allocates one.

        Returns:
            uint8 [h, w, C].

        Raises:
            RunError: The image cannot be read, or has changed since the scan.
        """
        content = self.encoded(index)
        number = int(self.numbers[index])
        height, width = int(self.index.height[number]), int(self.index.width[number])
        # -(-side >> n) divides by 2**n and rounds up.
        expected = (-(-height >> halvings), -(-width >> halvings), self.channels)
        if self.plain_jpeg[index]:
            decoded = jpeg.decode(content, expected, memory)
            if decoded is not None:
                return decoded
        try:
            image = decode.decode(content, self.channels, halvings)
        except decode.ImageError as error:
            raise self._change_error(number, str(error)) from error
        if image.shape != expected:
            raise self._change_error(number, f"its shape is {image.shape}, it was {expected}")
        return image

    def blocks(self, rows: int, size: int, interpolation: str = "bilinear") -> Iterator[Examples]:
        """Yields all centre squares in order, {"image": uint8 [r, size, size, C]}."""
        squares = map_ahead(
            lambda i: _centre_square(self.image(i), size, interpolation), range(len(self))
        )
        while block := list(itertools.islice(squares, rows)):
            yield {"image": np.stack(block)}

    def _change_error(self, number: int, detail: str) -> RunError:
        return RunError(
            f"{self.name}: {self.records.names[number]} has changed since the run began: {detail}; "
            "restore it and run the same command to resume"
        )


def _centre_square(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Centre square of an image [h, w, C], resized to [size, size, C]."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return decode.resize(image[top : top + side, left : left + side], size, interpolation)


def load_images(records: Records, options: ImageOptions) -> Images:
    """Scans the records and opens the images that the scan keeps. The scan is cached.

    Images of one size that fit in memory are decoded at once into an ``ArraySource``, so that the
    device can augment them; see ``options.in_memory``.

    Args:
        records: Reader of the encoded images.
        options: Options for reading the images.

    Raises:
        UserError: More than the fraction ``max_rejected`` of the images or all images are excluded,
            or ``in_memory`` is set and the images have different sizes.
    """
    index = scan.scan(
        records,
        channels=options.channels,
        min_side=options.min_side,
        max_pixels=options.max_pixels,
        cache=cache_path(records, options.channels),
    )
    scan.check_rejected_fraction(index, records.name, options.max_rejected)
    notes = quality_notes(records.names, index)
    source = ImageSource(records, index, index.kept, options.channels, added_notes=notes)
    return _decode_all(source) if _fits_in_memory(source, options.in_memory) else source


def _fits_in_memory(source: ImageSource, in_memory: bool | None) -> bool:
    """True if all images have one size, and ``in_memory`` is True or the limit allows it."""
    if in_memory is False:
        return False
    sizes = source.sizes
    if (sizes == sizes[0]).all():
        size = len(source) * int(sizes[0].prod()) * source.channels
        return bool(in_memory) or size <= IN_MEMORY_LIMIT
    if in_memory:
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        raise UserError(
            f"data.in_memory needs images of one size; {source.name} has heights from {low[0]} "
            f"to {high[0]} px and widths from {low[1]} to {high[1]} px; omit data.in_memory"
        )
    return False


def _decode_all(source: ImageSource) -> ArraySource:
    images = np.empty((len(source), *source.sizes[0], source.channels), np.uint8)
    for number, image in enumerate(map_ahead(source.image, range(len(source)))):
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
    """Path of the cached scan of these records, for one number of channels."""
    digest = hashlib.blake2b(to_bytes(f"{records.name}|{channels}"), digest_size=10).hexdigest()
    return cache_folder("index") / f"{digest}.npz"
