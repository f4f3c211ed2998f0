"""Folders of recordings that the package writes: splits of a source, and data of a check."""

import pathlib
import wave
from typing import Any

import numpy as np

from cssl_jax.config.audio import AudioData
from cssl_jax.data.sources.audio import AudioSource
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
