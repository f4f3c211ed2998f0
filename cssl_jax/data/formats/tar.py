"""WebDataset's tar shards: files that share a name up to its first dot are one sample."""

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

from cssl_jax.data.formats.schema import is_whole_number, note_on_no_label, number_labels
from cssl_jax.data.formats.shards import Shard, ShardReader, find_shards
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.data.sources.decode import is_image_name
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_BLOCK = 512  # bytes, of a tar
_MAX_LABEL = 2**24  # bytes of a text or .json with a label
_PACKED = {  # first bytes -> program that unpacks
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_Member = tuple[int, int]  # first byte, size


@dataclasses.dataclass(frozen=True)
class TarRecords:
    """Pictures in tar shards; ``Records`` of them.

    Attributes:
        name: The file, folder or pattern.
        names: "shard:key".
        stamps: Of the shard, and the picture's first byte.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        skipped: Samples without a picture.
        reader: Of the shards.
        places: int64 [size, 3], each picture's shard, first byte and size.
        notes: Sentences on what was read and what was not.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    skipped: int
    reader: ShardReader
    places: np.ndarray
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """The picture's bytes.

        Raises:
            OSError: The shard cannot be read, or has changed.
        """
        shard, start, size = self.places[index].tolist()
        return self.reader.read(shard, start, size)


def open_tar(spec: str, *, image_key: str = "", label_key: str = "") -> TarRecords:
    """Opens WebDataset shards by their headers; what they hold is cached shard by shard.

    Args:
        spec: A .tar, a folder of them, or a pattern such as ``shard-{000..012}.tar``.
        image_key: Extension of the picture ("jpg", "seg.png"), several by ";", the first that a
            sample has; "" takes the sample's only picture.
        label_key: Extension of a text with the label, or field of the .json; "" is ``cls``, else
            the field ``label``.

    Raises:
        UserError: There are no shards, one is damaged, or there are no such pictures or labels.
    """
    shards = find_shards(spec, ".tar", instead=_PACKED_SUFFIXES)
    index = functools.partial(_cached_index, image_key=image_key.lower(), label_key=label_key)
    names, stamps, places, values = [], [], [], []
    skipped, extensions = 0, set()
    for number, (shard, found) in enumerate(zip(shards, ahead(index, shards), strict=True)):
        names += [f"{shard.name}:{key}" for key in found["keys"]]
        stamps += [f"{shard.stamp}-{start}" for start, _ in found["places"]]
        places += [(number, start, size) for start, size in found["places"]]
        values += found["labels"]
        skipped += found["skipped"]
        extensions.update(found["extensions"])
    held = ", ".join(f".{extension}" for extension in sorted(extensions)[:12]) or "nothing"
    if not names:
        raise UserError(
            f"{spec} holds no samples with a picture{image_key and f' .{image_key}'}, only {held}; "
            "name the picture's extension by --data.image-key"
        )
    labels, classes = number_labels(values, spec)
    if label_key and labels is None:
        raise UserError(
            f"{spec}: no sample has a label {label_key!r}, as an extension or a field of its "
            f".json; the extensions are {held}; choose another --data.label-key"
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
        places=np.array(places, np.int64),
        notes=notes,
    )


def _cached_index(shard: Shard, image_key: str, label_key: str) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        return _index(shard, tuple(filter(None, image_key.split(";"))), label_key)

    return cached_json(f"tar index|{shard.path}|{shard.stamp}|{image_key}|{label_key}", make)


def _index(shard: Shard, image_keys: tuple[str, ...], label_key: str) -> dict[str, Any]:
    """Keys, places and labels of a shard's samples, in their order."""
    samples: dict[str, dict[str, _Member]] = {}
    for name, member in _members(shard.path):
        # The first dot of the last part, as WebDataset splits it; names without one are no samples.
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", name, re.DOTALL)
        if match:
            samples.setdefault(match[1], {})[match[2].lower()] = member
    keys, places, labels = [], [], []
    with shard.path.open("rb") as file:
        for key, members in samples.items():
            picture = _picture(members, image_keys, f"{shard.path}: {key}")
            if picture is not None:
                keys.append(key)
                places.append(picture)
                labels.append(_label(file, members, label_key, f"{shard.path}: {key}"))
    return {
        "keys": keys,
        "places": places,
        "labels": labels,
        "skipped": len(samples) - len(keys),
        "extensions": sorted({extension for members in samples.values() for extension in members}),
    }


def _members(path: pathlib.Path) -> Iterator[tuple[str, _Member]]:
    """(name, place) of every file of a tar; of one that was appended again, the last counts."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
            program = next((_PACKED[magic] for magic in _PACKED if head.startswith(magic)), None)
            if program is None:
                yield from _walk(file)
    except Exception as error:  # tarfile takes sizes and chains of headers as they are
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is damaged or cut short: {reason}; copy it again, or make it anew"
        ) from error
    if program is not None:
        raise UserError(
            f"{path} is compressed, which leaves no way to any one picture; unpack it by "
            f"`{program} {path}`"
        )


def _walk(file: BinaryIO) -> Iterator[tuple[str, _Member]]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        end, before = file.seek(0, io.SEEK_END), 0
        while (info := tar.next()) is not None:
            if info.size < 0 or tar.offset <= before:  # it would go round
                raise tarfile.ReadError(f"a size below 0 at byte {info.offset}")
            if info.isreg() and info.offset_data + info.size > end:
                raise tarfile.ReadError(f"a file beyond the end at byte {info.offset}")
            before = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
            if info.isreg() and not info.issparse():
                yield info.name.removeprefix("./"), (info.offset_data, info.size)
        # tarfile takes a damaged or missing header for the end, which is a block of zeros.
        file.seek(tar.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"no header and no end at byte {tar.offset}")


def _picture(
    members: dict[str, _Member], image_keys: tuple[str, ...], where: str
) -> _Member | None:
    if image_keys:
        return next((members[key] for key in image_keys if key in members), None)
    found = [extension for extension in members if is_image_name(f"x.{extension}")]
    if len(found) > 1:
        raise UserError(
            f"{where} has the pictures {', '.join(found[:5])}; choose one by --data.image-key"
        )
    return members[found[0]] if found else None


def _label(file: BinaryIO, members: dict[str, _Member], label_key: str, where: str) -> Any:
    """A whole number, a name, or None; what else a .json may hold is not judged here."""

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
