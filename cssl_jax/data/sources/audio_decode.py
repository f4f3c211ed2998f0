"""Decodes recordings to one channel of 16-bit samples at one rate."""

import importlib.util
import io
import wave
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cssl_jax.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
MAX_SAMPLES = 2**28  # maximum number of samples of a file over all channels, 1 GiB as float32
_BLOCK = 2**16  # samples that are decoded at once: a header may claim any number
FULL_SCALE = 2**15  # 16-bit sample that stands for 1
_INSTALL = "pip install 'cssl-jax[audio]'"


class Recording(NamedTuple):
    """Content of an audio file.

    Attributes:
        samples: int16 [T], one channel at the requested rate, or the file's.
        rate: Samples per second of the file.
        channels: Number of channels of the file.
        clipped: Fraction of the file's samples at full scale.
    """

    samples: np.ndarray
    rate: int
    channels: int
    clipped: float


def is_audio_name(name: str) -> bool:
    """True if a file name has the suffix of a recording."""
    return name.lower().endswith(SUFFIXES)


def decode(content: bytes, rate: int | None) -> Recording:
    """Decodes the bytes of an audio file, mixes its channels to their mean and resamples it.

    Without the package soundfile, WAV files of whole numbers are read, to the same samples.

    Args:
        content: Bytes of a WAV, FLAC, OGG, MP3, AIFF or AU file.
        rate: Samples per second of the result; None keeps that of the file.

    Raises:
        ValueError: The bytes are no such file, or hold too many, no or non-finite samples.
        UserError: A package is needed and not installed.
    """
    values, file_rate = _read(content)
    if not len(values):
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("samples that are not finite")
    if file_rate < 1:
        raise ValueError(f"a rate of {file_rate} samples per second")
    # A header may claim a rate so low that the resampled recording has no end.
    _check_size(len(values) * (rate or file_rate) // file_rate)
    clipped = float((np.abs(values) >= (FULL_SCALE - 1) / FULL_SCALE).mean())
    mixed = values.mean(axis=1, dtype=np.float64).astype(np.float32)
    samples = to_int16(resample(mixed, file_rate, rate or file_rate))
    if not len(samples):
        raise ValueError(f"less than one sample at {rate} Hz")
    return Recording(samples, file_rate, values.shape[1], clipped)


def to_int16(values: np.ndarray) -> np.ndarray:
    """Samples float in [-1, 1] as int16; larger ones are clipped."""
    scaled = np.rint(values.astype(np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def resample(values: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples float32 [T] at another rate, by soxr's high-quality filter.

    Raises:
        UserError: The rates differ and the package soxr is not installed.
    """
    if rate == new_rate:
        return values
    soxr = _optional("soxr")
    if soxr is None:
        raise UserError(
            f"recordings of {rate} Hz are resampled to data.rate {new_rate} by the package soxr, "
            f"which is not installed; {_INSTALL}, or give --data.rate {rate}"
        )
    resampled: np.ndarray = soxr.resample(values, rate, new_rate)
    return resampled


def _read(content: bytes) -> tuple[np.ndarray, int]:
    """(samples float32 [T, channels], rate)."""
    soundfile: Any = _optional("soundfile")
    if soundfile is None:
        return _read_wav(content)
    blocks, total = [], 0
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            channels, rate = file.channels, file.samplerate
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                total += block.size
                _check_size(total)
                blocks.append(block)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise ValueError(str(error)) from error
    return np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32), rate


def _read_wav(content: bytes) -> tuple[np.ndarray, int]:
    """The same for a WAV file of whole numbers, by the standard library."""
    if content[:4] != b"RIFF":
        raise UserError(
            f"audio files other than WAV need the package soundfile, which is not installed; "
            f"{_INSTALL}, or convert the files to WAV"
        )
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            _check_size(file.getnframes() * channels)
            data = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise ValueError(f"{error}; the package soundfile reads more kinds of WAV files") from error
    data = data[: len(data) // (width * channels) * width * channels].reshape(-1, width)
    if width == 1:
        values = data[:, 0].astype(np.int64) - 128
    else:
        # The bytes at the upper end of a 32-bit number; shifted down again with the sign.
        wide = np.zeros((len(data), 4), np.uint8)
        wide[:, 4 - width :] = data
        values = wide.view("<i4")[:, 0].astype(np.int64) >> (32 - 8 * width)
    scaled = (values / 2.0 ** (8 * width - 1)).astype(np.float32)
    return scaled.reshape(-1, channels), rate


def _check_size(samples: int) -> None:
    if samples > MAX_SAMPLES:
        raise ValueError(f"more than {MAX_SAMPLES:,} samples; cut the recording into shorter files")


def _optional(name: str) -> ModuleType | None:
    """A package of the extra audio; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)
