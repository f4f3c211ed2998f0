"""Audio: recordings of different lengths, as log-mel spectrograms or waveforms."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.audio.policy import SPECTROGRAM_OPERATIONS, AudioPolicy, sample_views
from cssl_jax.augment.audio.spectrogram import change_spectrograms, spectrogram_parameters
from cssl_jax.augment.audio.waveform import to_float, wave_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config.audio import AudioData
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.audio import AudioSource, is_audio_source, open_audio, padded
from cssl_jax.data.sources.audio_decode import resample, to_int16
from cssl_jax.data.sources.base import Examples, seeded_subset
from cssl_jax.errors import UserError
from cssl_jax.modalities import audio_files
from cssl_jax.modalities.audio_baselines import BASELINES, drawn_spectrograms
from cssl_jax.modalities.base import SHOWN_SIDE, Inputs, Modality, Parameters, Views
from cssl_jax.modalities.log_mel import Frames, default_high, empty_bands, log_mel

STATISTICS_CLIPS = 2000  # maximum number of examples that mean and standard deviation come from
ASSUMED_SECONDS = 1.0  # length that `plan` assumes of recordings that it does not read
_ROWS = 128  # examples per block whose statistics are computed at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioSpec(InputSpec):
    """Input of an encoder of recordings; ``size`` is the maximum number of samples of a view.

    Attributes:
        rate: Samples per second.
        front_end: Input of the encoder: "log_mel" or "wave".
        mels: Number of mel bands.
        window: Samples per frame.
        hop: Samples between two frames.
        low_hz: Lower edge of the lowest mel band.
        high_hz: Upper edge of the highest mel band.
        mean: Mean of the training split's input values.
        std: Standard deviation of the training split's input values.
        normalize: Normalisation: "dataset", "example" or "none".
    """

    rate: int
    front_end: str
    mels: int
    window: int
    hop: int
    low_hz: float
    high_hz: float
    mean: float
    std: float
    normalize: str

    @property
    def frames(self) -> Frames:
        """Frames and bands of the spectrogram."""
        return Frames(self.rate, self.mels, self.window, self.hop, self.low_hz, self.high_hz)


def open_source(text: str | os.PathLike[str], data: AudioData) -> AudioSource:
    """Opens the recordings of ``data.source``."""
    return open_audio(
        text,
        rate=data.rate,
        clip_seconds=data.clip_seconds,
        labels=data.labels,
        max_rejected=data.max_rejected,
    )


def checked_audio(recordings: Any, spec: AudioSpec) -> Examples:
    """Examples of what a user passes to an encoder.

    Args:
        recordings: (wave, rate), or a list of them: samples [T] or [T, channels], int16 or floats
            in [-1, 1], and samples per second. Or examples {"wave": [N, T], "length": [N]} at the
            encoder's rate.
        spec: Input of the encoder.

    Raises:
        UserError: They are no recordings, or a package is needed to resample them.
    """
    if isinstance(recordings, dict):
        if set(recordings) != {"wave", "length"}:
            raise UserError(
                f"recordings have {sorted(recordings)}; give wave [N, T] and length [N]"
            )
        wave, length = (np.asarray(recordings[name]) for name in ("wave", "length"))
        if wave.ndim != 2 or length.shape != wave.shape[:1]:
            raise UserError(f"wave has shape {wave.shape}, length {length.shape}; give [N, T], [N]")
        return {"wave": _checked_wave(wave), "length": length.astype(np.int32)}
    if isinstance(recordings, tuple) and len(recordings) == 2:
        recordings = [recordings]
    pieces = []
    for recording in recordings:
        if not (isinstance(recording, tuple | list) and len(recording) == 2):
            raise UserError(
                f"a recording is a {type(recording).__name__}; give (wave, rate), such as (float "
                f"[T], {spec.rate}), or a list of them"
            )
        wave, rate = recording
        pieces.append(_converted(wave, rate, spec.rate))
    if not pieces:
        raise UserError("there are no recordings; give a list of (wave, rate)")
    return padded(pieces)


def _checked_wave(wave: np.ndarray) -> np.ndarray:
    """Samples as float32 in [-1, 1], or int16."""
    if wave.dtype == np.int16:
        return wave
    if wave.dtype.kind != "f" or not np.isfinite(wave).all() or np.abs(wave).max(initial=0) > 1:
        raise UserError(
            f"samples are {wave.dtype} up to {np.abs(wave).max(initial=0):g}; give int16, or "
            "finite floats in [-1, 1]"
        )
    return wave.astype(np.float32)


def _converted(wave: Any, rate: Any, new_rate: int) -> np.ndarray:
    """Samples int16 [T] at the encoder's rate, as files are converted."""
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or not len(wave) or not 0 < rate < math.inf:
        raise UserError(
            f"a recording has shape {wave.shape} and rate {rate}; give samples [T] or [T, channels]"
            " and a positive number of samples per second"
        )
    floats = np.asarray(to_float(jnp.asarray(_checked_wave(wave))))
    mixed = floats.reshape(len(wave), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    return to_int16(resample(mixed, int(rate), new_rate))


def input_spec(data: AudioData, train: AudioSource) -> AudioSpec:
    """Length, front end and normalisation of the encoder's input.

    Mean and standard deviation are those of at most 2,000 examples of the training split, drawn by
    a fixed seed.
    """
    longest = int(train.examples["length"].max())
    spec = without_statistics(data, longest)
    if data.normalize == "none":
        return spec
    total, square, count = 0.0, 0.0, 0
    for block in seeded_subset(train, STATISTICS_CLIPS, seed=0).blocks(_ROWS, 0):
        sums = jax.device_get(_sums(block, spec))
        total, square = total + float(sums[0]), square + float(sums[1])
        count += int(sums[2])
    mean = total / count
    std = math.sqrt(max(square / count - mean**2, 0.0))
    return dataclasses.replace(spec, mean=mean, std=std if std > 1e-6 else 1.0)


def without_statistics(data: AudioData, longest: int) -> AudioSpec:
    """The specification with a mean of 0 and a standard deviation of 1."""
    window, hop = (max(1, round(ms * data.rate / 1000)) for ms in (data.window_ms, data.hop_ms))
    return AudioSpec(
        kind=data.modality,
        size=max(1, round(data.seconds * data.rate)) if data.seconds else longest,
        rate=data.rate,
        front_end=data.front_end,
        mels=data.mels,
        window=window,
        hop=hop,
        low_hz=data.low_hz,
        high_hz=data.high_hz or default_high(data.rate),
        mean=0.0,
        std=1.0,
        normalize=data.normalize,
    )


@functools.partial(jax.jit, static_argnames="spec")
def _sums(block: Examples, spec: AudioSpec) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum, sum of squares, number) of the input values of examples; padding is 0."""
    inputs = prepare(block, spec)
    values = inputs["values"]
    return values.sum(), jnp.square(values).sum(), inputs["length"].sum() * values.shape[2]


def assumed(data: AudioData, count: int) -> tuple[AudioSpec, Examples]:
    """Specification and shapes of recordings that are not read, as long as a view or a second."""
    samples = max(1, round((data.seconds or ASSUMED_SECONDS) * data.rate))
    shapes = {
        "wave": jax.ShapeDtypeStruct((count, samples), np.int16),
        "length": jax.ShapeDtypeStruct((count,), np.int32),
    }
    return without_statistics(data, samples), shapes


def inherited(spec: AudioSpec, other: AudioSpec) -> AudioSpec:
    """The specification with the statistics of another run, whose weights are taken."""
    same = dataclasses.replace(other, size=spec.size)
    if dataclasses.replace(spec, mean=other.mean, std=other.std) != same:
        return spec  # another front end, whose statistics are others
    return same


def layout(source: AudioSource) -> str:
    """Number of samples per second."""
    return f"recordings at {source.rate} Hz"


def misfit(source: AudioSource, spec: AudioSpec) -> str:
    """Reason why an encoder cannot take the recordings: their rate."""
    rate = getattr(source, "rate", spec.rate)  # arrays of a user have been converted
    if rate == spec.rate:
        return ""
    return f"recordings are at {rate} Hz; this encoder takes {spec.rate} Hz"


def view_examples(examples: Examples, drawn: Parameters, group: SizedGroup) -> Examples:
    """Views as examples: waves [n, k, size], and the parameters of their spectrograms."""
    views = wave_views(examples, drawn, policy=group.policy, size=group.size)
    return {**views, "spectrogram": spectrogram_parameters(drawn, group.policy)}


def prepare(examples: Examples, spec: AudioSpec) -> Inputs:
    """Normalised spectrograms or waves; steps from the length on are 0, the mean.

    Args:
        examples: wave int16 or float [..., S], length int32 [...], and optionally the parameters of
            operations on the spectrogram.
        spec: Front end and normalisation.

    Returns:
        values float [..., T, C] and length int32 [...], in frames or samples.
    """
    lead = examples["length"].shape
    flat = jax.tree.map(lambda x: jnp.reshape(x, (-1, *jnp.shape(x)[len(lead) :])), examples)
    wave, length = to_float(flat["wave"]), flat["length"]
    if spec.front_end == "wave":
        values, count = wave[..., None], length
    else:
        values, count = log_mel(wave, length, spec.frames)
    inside = (jnp.arange(values.shape[1]) < count[:, None])[..., None]
    if spec.normalize == "example":
        number = jnp.maximum(count, 1)[:, None, None]
        values = values - jnp.where(inside, values, 0).sum(axis=1, keepdims=True) / number
    elif spec.normalize == "dataset":
        values = values - spec.mean
    values = values / spec.std
    if drawn := flat.get("spectrogram"):
        values = change_spectrograms(values, count, drawn, spec.std)
    values = jnp.where(inside, values, 0)
    return {
        "values": values.reshape(*lead, *values.shape[1:]),
        "length": count.reshape(lead),
    }


def apply_views(examples: Examples, drawn: Parameters, group: SizedGroup, spec: AudioSpec) -> Views:
    """Normalised views, values [n, k, T, C] and length [n, k]."""
    return prepare(view_examples(examples, drawn, group), spec)


def zeros(spec: AudioSpec, size: int, n: int, k: int) -> Views:
    """Views of zeros."""
    is_wave = spec.front_end == "wave"
    steps = size if is_wave else spec.frames.count(max(size, spec.window))
    values = np.zeros((n, k, steps, 1 if is_wave else spec.mels), np.float32)
    return {"values": values, "length": np.full((n, k), steps, np.int32)}


def show(source: AudioSource) -> tuple[int, Iterator[np.ndarray]]:
    """Every recording as a grey spectrogram, low frequencies at the bottom."""
    return SHOWN_SIDE, drawn_spectrograms(source, SHOWN_SIDE)


def check(data: AudioData, policy: AudioPolicy) -> None:
    """Refuses options that do not fit each other.

    Raises:
        UserError: The mel bands leave the spectrum or are too narrow, or the policy changes
            spectrograms that a waveform encoder does not see.
    """
    if data.front_end == "wave":
        used = [name for name in SPECTROGRAM_OPERATIONS if policy.uses(name)]
        if used:
            options = " ".join(f"--augment.{name.replace('_', '-')} 0" for name in used)
            raise UserError(
                f"augment.{used[0]} changes spectrograms, and data.front_end is wave; give "
                f"{options}"
            )
        return
    frames = without_statistics(data, 1).frames
    if not frames.low < frames.high <= data.rate / 2:
        raise UserError(
            f"data.low_hz is {frames.low:g} and data.high_hz {frames.high:g}; give low < high <= "
            f"{data.rate / 2:g}, half of data.rate"
        )
    if empty := empty_bands(frames):
        raise UserError(
            f"{empty} of {data.mels} mel bands lie between two frequencies of a frame; give fewer "
            f"--data.mels, or a longer --data.window-ms than {data.window_ms:g}"
        )


def supervised(spec: AudioSpec) -> dict[str, Any]:
    """The same input."""
    return {
        "data.rate": spec.rate,
        "data.seconds": spec.size / spec.rate,
        "data.front_end": spec.front_end,
        "data.normalize": spec.normalize,
    }


AUDIO = Modality(
    noun="recordings",
    one="recording",
    unit="samples",
    data=AudioData,
    augment=AudioPolicy,
    spec=AudioSpec,
    open=open_source,
    examples=checked_audio,
    input_spec=input_spec,
    inherited=inherited,
    layout=layout,
    misfit=misfit,
    sample_views=sample_views,
    apply_views=apply_views,
    view_examples=view_examples,
    prepare=prepare,
    zeros=zeros,
    baselines=BASELINES,
    show=show,
    check=check,
    assumed=assumed,
    supervised=supervised,
    reduced=audio_files.reduced,
    write=audio_files.write,
    holds=is_audio_source,
    examine=audio_files.examine,
    divide=audio_files.divide,
)
