"""Series: numbers [T, C] of different lengths, with missing values."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.series.batched import apply_views as series_views
from cssl_jax.augment.series.batched import known_mask, moments
from cssl_jax.augment.series.policy import SeriesPolicy, sample_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config.series import SeriesData
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import ArraySource, Examples, Source
from cssl_jax.data.sources.series import (
    check_labels,
    is_series_file,
    open_series,
    series_examples,
)
from cssl_jax.errors import UserError
from cssl_jax.modalities import series_files
from cssl_jax.modalities.base import SHOWN_SIDE, Baseline, Inputs, Modality, Parameters, Views

RAW_STEPS = 64  # number of steps that the raw-values baseline stretches a series to
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115))  # of the first three channels in a report


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesSpec(InputSpec):
    """Input of an encoder of series; ``size`` is the maximum number of steps of a view.

    Attributes:
        mean: Mean per channel of the training split.
        std: Standard deviation per channel of the training split.
        normalize: Statistics that normalise a series: "dataset", "example" or "none".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalize: str


def open_source(text: str | os.PathLike[str], data: SeriesData) -> Source:
    """Opens the series of ``data.source``."""
    return open_series(text, data.labels)


def checked_series(values: Any, spec: SeriesSpec) -> Examples:
    """Examples of what a user passes to an encoder.

    Args:
        values: Numbers [N, T, C] or [N, T], NaN for missing values; N arrays of different lengths;
            or {"values", "length"}.
        spec: Input of the encoder.

    Raises:
        UserError: They are no series, or have another number of channels than the encoder takes.
    """
    if isinstance(values, dict):
        if set(values) != {"values", "length"}:
            raise UserError(f"series have {sorted(values)}; give values [N, T, C] and length [N]")
        examples = series_examples(np.asarray(values["values"]), "series", values["length"])
    else:
        examples = series_examples(values, "series")
    if examples["values"].shape[-1] != len(spec.mean):
        raise UserError(
            f"series have {examples['values'].shape[-1]} channels; this encoder takes "
            f"{len(spec.mean)}"
        )
    return examples


def input_spec(data: SeriesData, train: ArraySource) -> SeriesSpec:
    """Number of steps and normalisation of the encoder's input."""
    values, length = train.examples["values"], train.examples["length"]
    valid = np.arange(values.shape[1]) < length[:, None]
    numbers = values[valid].astype(np.float64)  # [steps of all series, C]
    known = np.where(np.isnan(numbers).all(axis=0), 0.0, numbers)  # a channel without values: 0
    mean, std = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    return SeriesSpec(
        kind=data.modality,
        size=data.length or int(length.max()),
        mean=tuple(map(float, mean)),
        std=tuple(float(value) if value > 0 else 1.0 for value in std),
        normalize=data.normalize,
    )


def inherited(spec: SeriesSpec, other: SeriesSpec) -> SeriesSpec:
    """The specification with the statistics of another run, whose weights are taken."""
    if (spec.normalize, len(spec.mean)) != (other.normalize, len(other.mean)):
        return spec
    return dataclasses.replace(spec, mean=other.mean, std=other.std)


def layout(source: ArraySource) -> str:
    """Number of channels."""
    return f"series of {source.examples['values'].shape[-1]} channel(s)"


def misfit(source: ArraySource, spec: SeriesSpec) -> str:
    """Reason why an encoder cannot take the series: their number of channels."""
    channels = source.examples["values"].shape[-1]
    if channels == len(spec.mean):
        return ""
    return f"series have {channels} channels; this encoder takes {len(spec.mean)}"


def view_examples(examples: Examples, drawn: Parameters, group: SizedGroup) -> Examples:
    """Views as series, values [n, k, size, C] and length [n, k]."""
    return series_views(examples, drawn, policy=group.policy, size=group.size)


def prepare(examples: Examples, spec: SeriesSpec) -> Inputs:
    """Normalised series; missing values are 0, the mean, and so are the steps from the length on.

    Args:
        examples: values float [..., T, C] and length int32 [...].
        spec: Normalisation.
    """
    values = jnp.asarray(examples["values"], jnp.promote_types(examples["values"].dtype, float))
    length = examples["length"]
    if spec.normalize == "example":
        mean, std = moments(values, length)
    else:
        mean, std = (jnp.asarray(x, values.dtype) for x in (spec.mean, spec.std))
    if spec.normalize != "none":
        values = (values - mean) / std
    return {"values": jnp.where(known_mask(values, length), values, 0), "length": length}


def apply_views(
    examples: Examples, drawn: Parameters, group: SizedGroup, spec: SeriesSpec
) -> Views:
    """Normalised views, values [n, k, size, C] and length [n, k]."""
    return prepare(view_examples(examples, drawn, group), spec)


def zeros(spec: SeriesSpec, size: int, n: int, k: int) -> Views:
    """Views of zeros."""
    values = np.zeros((n, k, size, len(spec.mean)), np.float32)
    return {"values": values, "length": np.full((n, k), size, np.int32)}


def raw_values(source: Source) -> np.ndarray:
    """Values stretched to ``RAW_STEPS`` steps, missing ones interpolated, float32 [N, steps C]."""
    found = [
        np.concatenate([_stretched(channel[:length]) for channel in values.T])
        for block in source.blocks(1024, 0)
        for values, length in zip(block["values"], block["length"], strict=True)
    ]
    return np.stack(found).astype(np.float32)


def _stretched(channel: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(channel))
    if not len(known):
        return np.zeros(RAW_STEPS)
    places = np.linspace(0, len(channel) - 1, RAW_STEPS)
    stretched: np.ndarray = np.interp(places, known, channel[known])
    return stretched


def mean_and_std(source: Source) -> np.ndarray:
    """Mean and standard deviation per channel of every series, float32 [N, 2 C]."""
    found = []
    for block in source.blocks(1024, 0):
        for values, length in zip(block["values"], block["length"], strict=True):
            known = np.ma.masked_invalid(values[:length].astype(np.float64))
            both = known.mean(axis=0), known.std(axis=0)
            found.append(np.concatenate([one.filled(0) for one in both]))
    return np.stack(found).astype(np.float32)


def show(source: Source) -> tuple[int, Iterator[np.ndarray]]:
    """Every series as a line plot of its first three channels."""
    drawings = (
        _drawn(values[:length])
        for block in source.blocks(256, 0)
        for values, length in zip(block["values"], block["length"], strict=True)
    )
    return SHOWN_SIDE, drawings


def _drawn(values: np.ndarray) -> np.ndarray:
    """Line plot uint8 [SHOWN_SIDE, SHOWN_SIDE, 3] of values [T, C], scaled to its height."""
    image = np.full((SHOWN_SIDE, SHOWN_SIDE, 3), 255, np.uint8)
    low, high = (np.nanmin(values), np.nanmax(values)) if not np.isnan(values).all() else (0, 0)
    span = (high - low) or 1.0
    places = np.linspace(0, len(values) - 1, SHOWN_SIDE)
    steps = np.arange(len(values))
    for channel, colour in zip(values.T, _COLOURS, strict=False):
        known = ~np.isnan(channel)
        if not known.any():
            continue
        heights = np.interp(places, steps[known], channel[known])
        rows = np.round((high - heights) / span * (SHOWN_SIDE - 1)).astype(int)
        for column, (row, before) in enumerate(zip(rows, [rows[0], *rows[:-1]], strict=True)):
            image[min(row, before) : max(row, before) + 1, column] = colour
    return image


def check(data: SeriesData, policy: SeriesPolicy) -> None:
    """Refuses rules for labels that series do not have.

    Raises:
        UserError: ``data.labels`` is neither "auto" nor "none".
    """
    check_labels(data.labels)


SERIES = Modality(
    noun="series",
    one="series",
    unit="steps",
    data=SeriesData,
    augment=SeriesPolicy,
    spec=SeriesSpec,
    open=open_source,
    examples=checked_series,
    input_spec=input_spec,
    inherited=inherited,
    layout=layout,
    misfit=misfit,
    sample_views=sample_views,
    apply_views=apply_views,
    view_examples=view_examples,
    prepare=prepare,
    zeros=zeros,
    baselines={
        "raw": Baseline(label=f"raw values, {RAW_STEPS} steps", features=raw_values),
        "moments": Baseline(label="mean and standard deviation", features=mean_and_std),
    },
    show=show,
    check=check,
    supervised=lambda spec: {"data.length": spec.size, "data.normalize": spec.normalize},
    reduced=lambda data: {"length": series_files.reduced_length(data)},
    write=series_files.write,
    holds=is_series_file,
    examine=series_files.examine,
    divide=series_files.divide,
)
