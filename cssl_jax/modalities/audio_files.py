"""Files of recordings: their examination, their split, and those that the package writes."""

import os
import pathlib
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssl_jax.config.audio import AudioData
from cssl_jax.data.cleaning import audio_check, splits
from cssl_jax.data.cleaning.set_check import SetCheck
from cssl_jax.data.sources.audio import AudioSource, decode_files
from cssl_jax.files import csv_text, write_text

REDUCED_SECONDS = 0.2  # maximum length of a view in a check


def reduced(data: AudioData) -> dict[str, Any]:
    """Values of section data for a check on short views."""
    return {
        "seconds": min(data.seconds or REDUCED_SECONDS, REDUCED_SECONDS),
        "mels": min(data.mels, 16),
    }


def write(source: AudioSource | None, data: AudioData, count: int, path: pathlib.Path) -> str:
    """Writes the recordings of a source, or noise, to a folder with a list; returns the list."""
    if source is None:
        rng = np.random.default_rng(0)
        samples = max(1, round((data.seconds or REDUCED_SECONDS) * data.rate))
        length = rng.integers(samples // 2, samples + 1, count).clip(1)
        noise = rng.integers(-(2**12), 2**12, (count, samples)).astype(np.int16)
        source = AudioSource("noise", {"wave": noise, "length": length}, rate=data.rate)
    return write_recordings(source, path)


def write_recordings(source: AudioSource, path: pathlib.Path) -> str:
    """Writes one 16-bit WAV file per example, and clips.csv with labels and groups.

    Args:
        source: Recordings in memory.
        path: Folder; it is created if it does not exist.

    Returns:
        Path of clips.csv.
    """
    path.mkdir(parents=True, exist_ok=True)
    columns: list[list[str]] = [[f"{number:06}.wav" for number in range(len(source))]]
    header = ["path"]
    pairs = zip(source.examples["wave"], source.examples["length"], strict=True)
    for name, (samples, length) in zip(columns[0], pairs, strict=True):
        with wave.open(str(path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(source.rate)
            file.writeframes(samples[:length].astype("<i2").tobytes())
    if source.labels is not None:
        header.append("label")
        names = source.classes or tuple(map(str, range(source.num_classes)))
        columns.append([names[label] if label >= 0 else "" for label in source.labels])
    if source.groups is not None:
        header.append("group")
        columns.append(source.groups.tolist())
    write_text(path / "clips.csv", csv_text([header, *zip(*columns, strict=True)]))
    return str(path / "clips.csv")


def examine(source: str, options: Any) -> SetCheck:
    """Examines a set of recordings; the option is ``labels``."""
    return check_audio(source, options.labels)


def divide(
    source: str, output: pathlib.Path, options: Any, fractions: Sequence[float], seed: int
) -> list[tuple[pathlib.Path, int]]:
    """Splits a set of recordings; the option is ``labels``."""
    return split_audio(source, output, labels=options.labels, fractions=fractions, seed=seed)


def check_audio(source: str, labels: str = "auto") -> SetCheck:
    """Examines recordings: rates, lengths, silence, clipping, duplicates, labels, damaged files.

    Args:
        source: Folder or .csv list, given as ``data.source`` of a run.
        labels: Labels of a folder, as ``data.labels``.

    Raises:
        UserError: The source does not exist, or is no set of recordings.
    """
    content = audio_check.summarize(decode_files(source, labels=labels))
    return SetCheck(content, audio_check.report(content))


def split_audio(
    source: str,
    output: str | pathlib.Path,
    *,
    labels: str = "auto",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[tuple[pathlib.Path, int]]:
    """Writes train.csv, validation.csv and test.csv for ``data.source``.

    A group is in one list. Without groups, every list has about the same fraction of each class.
    Files that cannot be decoded, and copies of other files, are in no list.

    Args:
        source: Folder or .csv list.
        output: Folder to write the lists to; it is created if it does not exist.
        labels: Labels of a folder, as ``data.labels``.
        fractions: Fractions of the recordings in the training, validation and test split. They sum
            to 1.
        seed: Seed of the order.

    Returns:
        Path and number of recordings of every list that is not empty.

    Raises:
        UserError: The source is no set of recordings, the fractions do not sum to 1, or the output
            cannot be written.
    """
    decoded = decode_files(source, labels=labels)
    records = decoded.records
    kept = np.flatnonzero([recording is not None for recording in decoded.recordings])
    names = [records.names[i] for i in kept]
    classes = None if records.labels is None else records.labels[kept]
    units: list[tuple[int, ...]] = []
    if records.groups is not None:
        units = splits.group_members(np.array(records.groups)[kept])
        classes = None  # a group mostly has several classes: the number of recordings decides
    parts = splits.split(names, classes, units, fractions=fractions, seed=seed)
    folder = pathlib.Path(output).expanduser().absolute()
    header = ["path", *(["label"] if records.labels is not None else [])]
    header += ["group"] if records.groups is not None else []

    def write(part: np.ndarray, path: pathlib.Path) -> None:
        rows = [_row(records, int(kept[i]), folder) for i in part]
        write_text(path, csv_text([header, *rows]))

    return splits.write_parts(folder, parts, "csv", write)


def _row(records: Any, number: int, folder: pathlib.Path) -> list[str]:
    row = [pathlib.PurePath(os.path.relpath(records.path(number), folder)).as_posix()]
    if records.labels is not None:
        label = int(records.labels[number])
        row.append("" if label < 0 else records.classes[label] if records.classes else str(label))
    if records.groups is not None:
        row.append(records.groups[number])
    return row
