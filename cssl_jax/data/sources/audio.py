"""Sources of recordings: a folder or a list of audio files, decoded once into memory."""

import dataclasses
import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np

from cssl_jax.data.formats.image_folder import FileKind, FileRecords, open_folder, open_list
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources.audio_decode import Recording, decode, is_audio_name
from cssl_jax.data.sources.base import ArraySource, Rejected
from cssl_jax.errors import MissingDataError, UserError

RECORDINGS = FileKind("recordings", ".wav, .flac, .ogg, .mp3 or .aiff files", is_audio_name)
_HELP = (
    "give a folder of recordings (.wav, .flac, .ogg, .mp3), or a .csv list with the columns path "
    "and optionally label and group"
)


@dataclasses.dataclass(frozen=True)
class AudioSource(ArraySource):
    """Clips of recordings in memory: {"wave": int16 [N, T], "length": int32 [N]}.

    Attributes:
        rate: Samples per second.
    """

    rate: int = 0


class Decoded(NamedTuple):
    """Files of a source and their content.

    Attributes:
        records: Files, with labels and groups.
        recordings: Content of every file; None for one that a run excludes.
        rejected: (name, reason, detail) per excluded file.
        repeated: Names of the files with identical bytes, per set of them.
    """

    records: FileRecords
    recordings: list[Recording | None]
    rejected: Rejected
    repeated: list[list[str]]


def open_audio(
    source: str | os.PathLike[str],
    *,
    rate: int,
    clip_seconds: float,
    labels: str = "auto",
    max_rejected: float = 0.1,
) -> AudioSource:
    """Opens recordings as examples of one channel at one rate.

    A recording that is longer than ``clip_seconds`` is cut into several examples. Without a column
    group, the examples of such a recording are a group, so that no split divides it.

    Args:
        source: Folder, or path of a .csv list.
        rate: Samples per second that the recordings are converted to.
        clip_seconds: Maximum length of an example in seconds.
        labels: Labels of a folder, see ``formats.image_folder.open_folder``; "none" ignores those
            of a list too.
        max_rejected: Maximum fraction of files that may be excluded.

    Raises:
        MissingDataError: The source does not exist.
        UserError: It has no recordings, or more files than allowed cannot be read.
    """
    decoded = decode_files(source, rate=rate, labels=labels)
    records, total = decoded.records, len(decoded.records.names)
    excluded = len(decoded.rejected)
    if excluded == total or excluded > max_rejected * total:
        name, reason, detail = decoded.rejected[0]
        raise UserError(
            f"{records.name}: {excluded} of {total} recordings cannot be used, such as {name} "
            f"({reason}{detail and f': {detail}'}); `cssl-jax data check` lists them. Fix them"
            + ("" if excluded == total else ", or raise --data.max-rejected")
        )
    pieces, owners, names = [], [], []
    step = max(1, round(clip_seconds * rate))
    for number, recording in enumerate(decoded.recordings):
        if recording is None:
            continue
        for start in range(0, len(recording.samples), step):
            piece = recording.samples[start : start + step]
            # A short rest at the end of a recording is no example of its own.
            if start and len(piece) < step // 2:
                continue
            pieces.append(piece)
            owners.append(number)
            at = f"@{start / rate:g}s" if len(recording.samples) > step else ""
            names.append(records.names[number] + at)
    owner = np.array(owners)
    groups = None if records.groups is None else np.array(records.groups)[owner]
    if groups is None and len(np.unique(owner)) < len(owner):
        groups = np.array(records.names)[owner]
    return AudioSource(
        pathlib.PurePath(records.name).name,
        padded(pieces),
        None if records.labels is None else records.labels[owner],
        names=np.array(names),
        rejected=decoded.rejected,
        classes=records.classes,
        notes=records.notes,
        groups=groups,
        rate=rate,
    )


def padded(pieces: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Examples {"wave": [N, T], "length": int32 [N]} of waves [T_i], with 0 from the length on."""
    length = np.array([len(piece) for piece in pieces], np.int32)
    wave = np.zeros((len(pieces), length.max()), pieces[0].dtype)
    for row, piece in zip(wave, pieces, strict=True):
        row[: len(piece)] = piece
    return {"wave": wave, "length": length}


def decode_files(
    source: str | os.PathLike[str], *, rate: int | None = None, labels: str = "auto"
) -> Decoded:
    """Reads and decodes every file of a source, in threads.

    Args:
        source: Folder, or path of a .csv list.
        rate: Samples per second that the recordings are converted to; None keeps those of the
            files.
        labels: Labels of a folder, see ``open_audio``.

    Raises:
        MissingDataError: The source does not exist.
        UserError: It is no set of recordings, or a package is needed and not installed.
    """
    records = open_records(source, labels)
    files: list[tuple[bytes, Recording | None, str, str]] = list(
        map_ahead(lambda number: _decode_one(records, number, rate), range(len(records.names)))
    )
    same: dict[bytes, list[str]] = {}
    rejected, recordings = [], []
    for name, (digest, recording, reason, detail) in zip(records.names, files, strict=True):
        first = same.setdefault(digest, [])
        if first and recording is not None:
            recording, reason, detail = None, "duplicate", f"same bytes as {first[0]}"
        first.append(name)
        if reason:
            rejected.append((name, reason, detail))
        recordings.append(recording)
    repeated = [names for names in same.values() if len(names) > 1]
    return Decoded(records, recordings, tuple(rejected), repeated)


def _decode_one(
    records: FileRecords, number: int, rate: int | None
) -> tuple[bytes, Recording | None, str, str]:
    """(digest of the bytes, content, reason for excluding the file, detail)."""
    try:
        content = records.read(number)
    except OSError as error:
        return str(number).encode(), None, "unreadable", str(error)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if not content:
        return digest, None, "empty", ""
    try:
        return digest, decode(content, rate), "", ""
    except ValueError as error:
        return digest, None, "unreadable", " ".join(str(error).split())


def open_records(source: str | os.PathLike[str], labels: str = "auto") -> FileRecords:
    """Lists the files of a source without reading them.

    Raises:
        MissingDataError: The source does not exist.
        UserError: It is no folder of recordings and no list.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return open_folder(path, labels, RECORDINGS)
    if not path.exists():
        raise MissingDataError(f"data source {str(source)!r} does not exist; {_HELP}")
    if path.suffix.lower() != ".csv":
        raise UserError(f"data source {str(source)!r} is no set of recordings; {_HELP}")
    records = open_list(path, RECORDINGS.noun)
    if records.groups is not None and "" in records.groups:
        name = records.names[records.groups.index("")]
        raise UserError(
            f"{path}: {name} has no group; give every recording one, or remove the column"
        )
    return records if labels != "none" else dataclasses.replace(records, labels=None, classes=())


def is_audio_source(source: str) -> bool:
    """True if a folder or list has recordings and no images, by the names of the files."""
    path = pathlib.Path(source).expanduser()
    if not (path.is_dir() or path.suffix.lower() == ".csv"):
        return False
    try:
        records = open_records(source, "none")
    except UserError:
        return False
    return is_audio_name(records.names[0]) and not any(
        suffix in (".jpg", ".jpeg", ".png") for suffix in records.not_read
    )
