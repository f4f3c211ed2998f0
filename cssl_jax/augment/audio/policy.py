"""The augmentation policy of recordings, and the draws of its parameters."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters, Policy, sample_each_view
from cssl_jax.errors import UserError

WAVE_OPERATIONS = ("crop", "shift", "gain", "noise")
SPECTROGRAM_OPERATIONS = ("stretch", "warp", "tilt", "time_mask", "mel_mask")
PROBABILITIES = (*WAVE_OPERATIONS, *SPECTROGRAM_OPERATIONS)
# Each draw has a fixed place in one row of uniform numbers: a policy changes no draw of another.
_SLOTS = (
    *PROBABILITIES,
    *("crop_length", "crop_start", "shift_length", "gain_db", "noise_snr_db"),
    *("stretch_factor", "stretch_start", "warp_factor", "warp_start"),
    *("time_mask_length", "time_mask_start", "mel_mask_length", "mel_mask_start"),
)
TILT_WAVES = 4  # number of cosines over the mel bands that a tilt consists of
# Purposes of the keys that are derived from the key of a view; 0 is the row of uniform numbers.
_NOISE, _TILT = 1, 2
# Ranges that must be fractions.
_FRACTIONS = ("crop_length", "shift_length", "time_mask_length", "mel_mask_length")
_FACTORS = ("stretch_factor", "warp_factor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioPolicy(Policy):
    """Augmentation of recordings. A probability is one number for all views, or one for each view.

    The operations up to the noise change the waveform, the others the spectrogram.

    Attributes:
        crop: Probability of the crop: a segment of the recording.
        crop_length: Smallest and largest length of the segment, as fractions of the recording.
        shift: Probability of the shift: silence before the recording.
        shift_length: Smallest and largest length of the silence, as fractions of the recording.
        gain: Probability of the gain, one factor for the whole recording.
        gain_db: Smallest and largest gain in decibels.
        noise: Probability of white noise.
        noise_snr_db: Smallest and largest ratio of the recording's power to that of the noise, in
            decibels.
        stretch: Probability of the stretch along the time, without a change of pitch.
        stretch_factor: Smallest and largest section of the spectrogram, as multiples of its number
            of frames, that is resized to that number. Frames beyond the ends are the mean.
        warp: Probability of the warp of the mel bands, which changes the apparent length of a vocal
            tract.
        warp_factor: Smallest and largest section of the bands, as multiples of their number, that
            is resized to that number. Bands beyond the ends repeat the outermost one.
        tilt: Probability of the tilt: a smooth random curve over the bands is added, as a
            microphone or a room does.
        tilt_db: Standard deviation of each of the four cosines of the curve, in decibels.
        time_mask: Probability of the mask of frames (SpecAugment), which are set to the mean.
        time_mask_length: Smallest and largest length of the mask, as fractions of the frames.
        mel_mask: Probability of the mask of mel bands.
        mel_mask_length: Smallest and largest width of the mask, as fractions of the bands.
    """

    crop: tuple[float, ...] = (1.0,)
    crop_length: tuple[float, float] = (0.8, 1.0)
    shift: tuple[float, ...] = (0.0,)
    shift_length: tuple[float, float] = (0.0, 0.2)
    gain: tuple[float, ...] = (1.0,)
    gain_db: tuple[float, float] = (-6.0, 6.0)
    noise: tuple[float, ...] = (0.5,)
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    stretch: tuple[float, ...] = (1.0,)
    stretch_factor: tuple[float, float] = (0.8, 1.25)
    warp: tuple[float, ...] = (1.0,)
    warp_factor: tuple[float, float] = (0.85, 1.15)
    tilt: tuple[float, ...] = (1.0,)
    tilt_db: float = 3.0
    time_mask: tuple[float, ...] = (1.0,)
    time_mask_length: tuple[float, float] = (0.0, 0.2)
    mel_mask: tuple[float, ...] = (1.0,)
    mel_mask_length: tuple[float, float] = (0.0, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*_FRACTIONS, *_FACTORS, "gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            lowest, strict = (0.0, name in ("crop_length", *_FACTORS))
            if name in ("gain_db", "noise_snr_db"):
                lowest = -math.inf
            highest = 1.0 if name in _FRACTIONS else 4.0 if name in _FACTORS else math.inf
            fits = lowest < low if strict else lowest <= low
            if not (fits and low <= high <= highest and math.isfinite(low + high)):
                limits = f"{'above ' if strict else ''}{lowest:g} to {highest:g}"
                raise UserError(
                    f"augment.{name} is ({low}, {high}); give smallest <= largest, {limits}"
                )
        if not 0.0 <= self.tilt_db < math.inf:
            raise UserError(f"augment.tilt_db is {self.tilt_db}; give 0 or more, finite")

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return PROBABILITIES


def sample(
    key: jax.Array, policy: AudioPolicy, view: jax.Array | int = 0, first: int = 0
) -> Parameters:
    """Draws the augmentation parameters of one view of one recording.

    They do not depend on the length. An operation that is off in this draw gets neutral parameters.

    Args:
        key: uint32 [2], key of the example (``cssl_jax.data.sampler.example_key``).
        policy: Policy to draw from.
        view: Number of the view within its group, from 0; traced or concrete.
        first: Number of the group's first view among all views of the example.

    Returns:
        crop_length, shift_length (fractions of the recording), crop_start (fraction of the room
        that the segment leaves), gain_db, noise (standard deviation as a multiple of the
        recording's), noise_key (uint32 [2]), stretch_factor and warp_factor with their starts, tilt
        [TILT_WAVES] (decibels), time_mask_length and mel_mask_length with their starts.
    """
    chex.assert_shape(key, (2,))
    view_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), first + view)
    drawn = jax.random.uniform(jax.random.fold_in(view_key, 0), (len(_SLOTS),), float)
    uniform: dict[str, jax.Array] = dict(zip(_SLOTS, drawn, strict=True))

    def happens(name: str) -> jax.Array:
        values = jnp.asarray(getattr(policy, name))
        chosen: jax.Array = uniform[name] < values[view if len(getattr(policy, name)) > 1 else 0]
        return chosen

    def between(operation: str, slot: str, neutral: float) -> jax.Array:
        low, high = getattr(policy, slot)
        return jnp.where(happens(operation), low + uniform[slot] * (high - low), neutral)

    ratio = between("noise", "noise_snr_db", math.inf)
    tilt: jax.Array = jax.random.normal(jax.random.fold_in(view_key, _TILT), (TILT_WAVES,), float)
    starts = ("crop_start", "stretch_start", "warp_start", "time_mask_start", "mel_mask_start")
    return {
        "crop_length": between("crop", "crop_length", 1.0),
        "shift_length": between("shift", "shift_length", 0.0),
        "gain_db": between("gain", "gain_db", 0.0),
        "noise": 10 ** (-ratio / 20),
        "noise_key": jax.random.key_data(jax.random.fold_in(view_key, _NOISE)),
        "stretch_factor": between("stretch", "stretch_factor", 1.0),
        "warp_factor": between("warp", "warp_factor", 1.0),
        "tilt": policy.tilt_db * tilt * happens("tilt"),
        "time_mask_length": between("time_mask", "time_mask_length", 0.0),
        "mel_mask_length": between("mel_mask", "mel_mask_length", 0.0),
        **{name: uniform[name] for name in starts},
    }


def sample_views(keys: jax.Array, policy: AudioPolicy, views: int, first: int = 0) -> Parameters:
    """Draws the parameters of every view of one group, for every recording.

    Args:
        keys: uint32 [n, 2], keys of the examples.
        policy: Policy to draw from.
        views: Number of views per example in the group.
        first: Number of the group's first view among all views of an example.

    Returns:
        Parameters as in ``sample``, leaves [n, views, ...].
    """
    return sample_each_view(lambda key, view: sample(key, policy, view, first), keys, views)
