"""Config section data of the modality audio."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cssl_jax.config.data import DataConfig
from cssl_jax.config.ranges import NOT_NEGATIVE, POSITIVE, Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioData(DataConfig):
    """Where recordings come from, and the input of their encoder.

    Attributes:
        source: Training recordings, WAV, FLAC, OGG or MP3: a folder, or a .csv list with the
            columns path and optionally label and group (such as the speaker).
        validation_fraction: Fraction of the source that is held out if there is no
            validation_source. Groups are held out as a whole.
        rate: Samples per second that all recordings are converted to, mixed to one channel.
        clip_seconds: Maximum length of an example in seconds: longer recordings are cut into
            several examples.
        seconds: Maximum length of a view in seconds; 0 is the length of the longest example.
        front_end: Input of the encoder: "log_mel" is the log-mel spectrogram, one step per frame
            and one channel per mel band; "wave" is the waveform, one step per sample.
        mels: Number of mel bands.
        window_ms: Length of a frame in milliseconds.
        hop_ms: Distance between two frames in milliseconds.
        low_hz: Lower edge of the lowest mel band in Hz.
        high_hz: Upper edge of the highest mel band in Hz; 0 is 97.5 % of half the rate.
        normalize: "dataset" subtracts the mean and divides by the standard deviation of the
            training split; "example" subtracts the mean of each channel of an example before, which
            removes what is constant in a recording, such as its microphone; "none" keeps the
            values.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        **DataConfig.ranges,
        "rate": POSITIVE,
        "clip_seconds": POSITIVE,
        "seconds": NOT_NEGATIVE,
        "mels": POSITIVE,
        "window_ms": POSITIVE,
        "hop_ms": POSITIVE,
        "low_hz": NOT_NEGATIVE,
        "high_hz": NOT_NEGATIVE,
    }

    modality: str = "audio"
    source: str = ""
    rate: int = 16_000
    clip_seconds: float = 10.0
    seconds: float = 0.0
    front_end: Literal["log_mel", "wave"] = "log_mel"
    mels: int = 64
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 60.0
    high_hz: float = 0.0
    normalize: Literal["dataset", "example", "none"] = "dataset"

    @property
    def identity(self) -> tuple[Any, ...]:
        """Options that determine the set of examples and its split into training and validation."""
        return (*super().identity, self.rate, self.clip_seconds)
