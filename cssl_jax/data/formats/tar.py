"""WebDataset tar shards. Files with the same name up to the first dot are one sample."""

import dataclasses
import functools
import io
import json
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.registry import FormatEntry
from cssl_jax.data.formats.schema import is_whole_number, note_on_no_label, number_labels
from cssl_jax.data.formats.shards import (
    Shard,
    ShardReader,
    find_shards,
    holds_shards,
    note_on_images,
)
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources.decode import is_image_name
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_BLOCK = 512  # bytes per block of a tar file
_MAX_LABEL = 2**24  # maximum bytes of a text or .json file with a label
_PACKED = {  # first bytes of a compressed file -> program that decompresses it
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_Member = tuple[int, int]  # offset of the first byte, size in bytes


@dataclasses.dataclass(frozen=True)
class TarRecords:
    """Images in tar shards, as ``Records``.

    Attributes:
        name: Absolute path of the file or folder, or the pattern.
        names: "shard:key" of every image.
        stamps: Stamp of the shard and offset of the image, for every image.
        labels: int64 [size], class number of every image, -1 for no label; None if no image has a
            label.
        classes: Class names in the order of the class numbers.
        skipped: Number of samples without an image.
        reader: Reader of the shards.
        locations: int64 [size, 3], shard index, byte offset and size in bytes of every image.
        notes: Sentences for the user about labels and samples that are not read.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    skipped: int
    reader: ShardReader
    locations: np.ndarray
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """Reads the bytes of one encoded image.

        Raises:
            OSError: The shard cannot be read, or has changed since it was indexed.
        """
        shard, start, size = self.locations[index].tolist()
        return self.reader.read(shard, start, size)


def open_tar(spec: str, *, image_key: str = "", label_key: str = "") -> TarRecords:
    """Opens WebDataset shards: reads their headers and labels, and caches the index per shard.

    Args:
        spec: A .tar file, a folder of them, or a pattern such as ``shard-{000..012}.tar``.
        image_key: Extension of the image ("jpg", "seg.png"). Of several extensions separated by
            ";", the first that a sample has is used. "": the only image of the sample.
        label_key: Extension of the text file with the label, or field of the .json file. "": the
            file ``cls``, else the field ``label``.

    Raises:
        UserError: There are no shards, one is damaged, or there are no such images or labels.
    """
    shards = find_shards(spec, ".tar", fallback_suffixes=_PACKED_SUFFIXES)
    index_shard = functools.partial(_cached_index, image_key=image_key.lower(), label_key=label_key)
    names, stamps, locations, values = [], [], [], []
    skipped, extensions = 0, set()
    indexes = map_ahead(index_shard, shards)
    for number, (shard, index) in enumerate(zip(shards, indexes, strict=True)):
        names += [f"{shard.name}:{key}" for key in index["keys"]]
        stamps += [f"{shard.stamp}-{start}" for start, _ in index["places"]]
        locations += [(number, start, size) for start, size in index["places"]]
        values += index["labels"]
        skipped += index["skipped"]
        extensions.update(index["extensions"])
    listing = ", ".join(f".{extension}" for extension in sorted(extensions)[:12]) or "no files"
    if not names:
        raise UserError(
            f"{spec} contains no samples with an image{image_key and f' .{image_key}'}, only "
            f"{listing}; give the extension of the image by --data.image-key"
        )
    labels, classes = number_labels(values, spec)
    if label_key and labels is None:
        raise UserError(
            f"{spec}: no sample has a label {label_key!r}, as an extension or a field of its "
            f".json; the extensions are {listing}; choose another --data.label-key"
        )
    others = [f".{name}" for name in sorted(extensions) if not is_image_name(f"x.{name}")]
    notes: tuple[str, ...] = ()
    if skipped:
        notes = (f"{skipped:,} samples of {spec} without an image are not read",)
    if labels is None:
        notes += note_on_no_label("extensions", others, "name it by --data.label-key")
    return TarRecords(
        name=str(pathlib.Path(spec).expanduser().absolute()),
        names=tuple(names),
        stamps=tuple(stamps),
        labels=labels,
        classes=classes,
        skipped=skipped,
        reader=ShardReader(shards),
        locations=np.array(locations, np.int64),
        notes=notes,
    )


def _cached_index(shard: Shard, image_key: str, label_key: str) -> dict[str, Any]:
    def build() -> dict[str, Any]:
        return _build_index(shard, tuple(filter(None, image_key.split(";"))), label_key)

    return cached_json(f"tar index|{shard.path}|{shard.stamp}|{image_key}|{label_key}", build)


def _build_index(shard: Shard, image_keys: tuple[str, ...], label_key: str) -> dict[str, Any]:
    """Indexes one shard: keys, positions and labels of its samples, in the order of the file."""
    samples: dict[str, dict[str, _Member]] = {}
    for name, member in _members(shard.path):
        # WebDataset splits a name at the first dot after the last "/". A file whose name has no
        # such dot belongs to no sample.
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", name, re.DOTALL)
        if match:
            samples.setdefault(match[1], {})[match[2].lower()] = member
    keys, positions, labels = [], [], []
    with shard.path.open("rb") as file:
        for key, members in samples.items():
            image = _image_member(members, image_keys, f"{shard.path}: {key}")
            if image is not None:
                keys.append(key)
                positions.append(image)
                labels.append(_label(file, members, label_key, f"{shard.path}: {key}"))
    return {
        "keys": keys,
        "places": positions,
        "labels": labels,
        "skipped": len(samples) - len(keys),
        "extensions": sorted({extension for members in samples.values() for extension in members}),
    }


def _members(path: pathlib.Path) -> Iterator[tuple[str, _Member]]:
    """Yields (name, position) of every file of a tar, in the order of the file.

    A name occurs twice if the file was appended again; the last one is valid.

    Raises:
        UserError: The tar is damaged, cut short or compressed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(6)
            program = next((_PACKED[magic] for magic in _PACKED if head.startswith(magic)), None)
            if program is None:
                yield from _walk(file)
    # tarfile does not check sizes and chains of headers, so that any exception may occur.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is damaged or cut short: {reason}; copy it again, or create it again"
        ) from error
    if program is not None:
        raise UserError(
            f"{path} is compressed, so that single images cannot be read; decompress it by "
            f"`{program} {path}`"
        )


def _walk(file: BinaryIO) -> Iterator[tuple[str, _Member]]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        end, before = file.seek(0, io.SEEK_END), 0
        while (info := tar.next()) is not None:
            if info.size < 0 or tar.offset <= before:  # tarfile would loop forever
                raise tarfile.ReadError(f"a size below 0 at byte {info.offset}")
            if info.isreg() and info.offset_data + info.size > end:
                raise tarfile.ReadError(f"a file beyond the end at byte {info.offset}")
            before = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
            if info.isreg() and not info.issparse():
                yield info.name.removeprefix("./"), (info.offset_data, info.size)
        # A tar ends with a block of zeros, but tarfile also stops at a damaged or missing header.
        file.seek(tar.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"no header and no end at byte {tar.offset}")


def _image_member(
    members: dict[str, _Member], image_keys: tuple[str, ...], where: str
) -> _Member | None:
    """Chooses the image of a sample; None if the sample has no image."""
    if image_keys:
        return next((members[key] for key in image_keys if key in members), None)
    candidates = [extension for extension in members if is_image_name(f"x.{extension}")]
    if len(candidates) > 1:
        raise UserError(
            f"{where} has the images {', '.join(candidates[:5])}; choose one by --data.image-key"
        )
    return members[candidates[0]] if candidates else None


def _label(file: BinaryIO, members: dict[str, _Member], label_key: str, where: str) -> Any:
    """Reads the label of a sample: a whole number, a name, or None.

    The field of a .json file may have any type; ``number_labels`` checks it.
    """

    def content(extension: str) -> str:
        start, size = members[extension]
        if size > _MAX_LABEL:
            raise ValueError(f".{extension} has {size:,} bytes, at most {_MAX_LABEL:,}")
        file.seek(start)
        return file.read(size).decode()

    try:
        extension = label_key.lower() or "cls"
        if extension in members:
            text = content(extension).strip()
            return int(text) if is_whole_number(text) else text
        if "json" in members:
            fields = json.loads(content("json"))
            return fields.get(label_key or "label") if isinstance(fields, dict) else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: its label cannot be read: {error}") from error
    return None


def _open(spec: str, options: ImageOptions) -> TarRecords:
    return open_tar(spec, image_key=options.image_key, label_key=options.label_key)


def _open_folder(path: str, options: ImageOptions) -> TarRecords:
    records = _open(path, options)
    return dataclasses.replace(records, notes=(*records.notes, *note_on_images(path)))


# Compressed files are refused by ``open_tar``, with the command that decompresses them.
FORMAT = FormatEntry(
    open=_open,
    description="'wds:SHARDS.tar'",
    scheme="wds",
    suffixes=(".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"),
    recognises=lambda folder: holds_shards(folder, ".tar"),
    open_folder=_open_folder,
)
