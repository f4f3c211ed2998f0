"""WebDataset shards as records: pictures are read out of the .tar files where they lie."""

import dataclasses
import functools
import glob
import json
import os
import pathlib
import re
import tarfile
from typing import Any

import numpy as np

from cssl_jax.data.folder import number_labels
from cssl_jax.data.pictures import SUFFIXES
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclasses.dataclass(frozen=True)
class TarRecords:
    """Members of tar shards; ``Records``.

    Attributes:
        name: As it was asked for.
        names: "shard:key".
        stamps: Of the shard, and where in it the picture lies.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        places: (shard, offset, length) of every picture.
        skipped: Samples without a picture.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    places: tuple[tuple[str, int, int], ...]
    skipped: int

    def read(self, index: int) -> bytes:
        """The encoded picture."""
        shard, offset, length = self.places[index]
        file = os.open(shard, os.O_RDONLY)
        try:
            return os.pread(file, length, offset)
        finally:
            os.close(file)


def open_tar(spec: str, *, image_key: str = "", label_key: str = "") -> TarRecords:
    """Opens one .tar, a folder of them, a pattern (*, ?) or a range (shard-{000..010}.tar).

    Files that share a name up to its first dot are one sample (github.com/webdataset/webdataset).
    The picture is the file with a picture's extension, or ``image_key``; the label is the text of
    .cls, or the field ``label_key`` (default "label") of .json.

    Raises:
        UserError: A shard is missing, compressed or damaged, or there are no pictures.
    """
    rows, skipped = [], 0
    for shard in _shards(spec):
        stat = shard.stat()
        stamp = f"{stat.st_size}-{stat.st_mtime_ns}"
        key = f"tar|{shard}|{stamp}|{image_key}|{label_key}"
        found = cached_json(key, functools.partial(_samples, shard, image_key, label_key))
        skipped += found["skipped"]
        for sample, offset, length, label in found["samples"]:
            place = (str(shard), offset, length)
            rows.append((f"{shard.name}:{sample}", f"{stamp}-{offset}", label, place))
    if not rows:
        raise UserError(f"wds:{spec} holds no pictures; give --data.image-key their extension")
    names, stamps, given, places = zip(*rows, strict=True)
    labels, classes = number_labels(given)
    return TarRecords(f"wds:{spec}", names, stamps, labels, classes, places, skipped)


def _shards(spec: str) -> list[pathlib.Path]:
    if match := _RANGE.search(spec):
        low, high = match.groups()
        numbers = range(int(low), int(high) + 1)
        paths = [
            pathlib.Path(f"{spec[: match.start()]}{n:0{len(low)}d}{spec[match.end() :]}")
            for n in numbers
        ]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"shard {missing[0]} does not exist; {len(missing)} are missing")
        return paths
    path = pathlib.Path(spec)
    if path.is_dir():
        paths = sorted(path.glob("*.tar"))
    else:
        paths = [pathlib.Path(name) for name in sorted(glob.glob(spec))]
    if not paths:
        raise UserError(f"wds:{spec} matches no file; give a .tar, a folder of them, or a pattern")
    return [path.absolute() for path in paths]


def _samples(shard: pathlib.Path, image_key: str, label_key: str) -> dict[str, Any]:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                key, dot, extension = file.partition(".")
                if not member.isfile() or not dot or not key:
                    continue
                sample = samples.setdefault(f"{folder}/{key}".lstrip("/"), {})
                _take(sample, tar, member, extension.lower(), image_key, label_key)
    except tarfile.TarError as error:
        way_out = "copy it again"
        if shard.read_bytes()[:2] == b"\x1f\x8b":
            way_out = f"it is compressed, which allows no random access: gunzip -k {shard.name}"
        raise UserError(f"{shard} is no readable tar file ({error}); {way_out}") from error
    if shard.stat().st_size % 512:
        raise UserError(f"{shard} is cut short; copy it again")
    rows = [
        [key, *sample["image"], sample.get("label", "")]
        for key, sample in samples.items()
        if "image" in sample
    ]
    return {"samples": rows, "skipped": len(samples) - len(rows)}


def _take(
    sample: dict[str, Any],
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    extension: str,
    image_key: str,
    label_key: str,
) -> None:
    is_image = extension == image_key if image_key else f".{extension}" in SUFFIXES
    if is_image and "image" not in sample:
        sample["image"] = (member.offset_data, member.size)
    elif extension in ("cls", "json"):
        file = tar.extractfile(member)
        text = b"" if file is None else file.read()
        try:
            if extension == "cls":
                sample["label"] = text.decode().strip()
            else:
                sample.setdefault("label", str(json.loads(text).get(label_key or "label", "")))
        except (ValueError, AttributeError) as error:
            raise UserError(f"{tar.name!r}: {member.name} holds no label: {error}") from error
