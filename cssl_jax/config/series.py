"""Config section data of the modality series."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from cssl_jax.config.data import DataConfig
from cssl_jax.config.ranges import NOT_NEGATIVE, Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesData(DataConfig):
    """Where series come from, and the input of their encoder.

    Attributes:
        source: Training series: an .npz file with values (float [N, T, C] or [N, T]; NaN is a
            missing value) and optionally lengths (int [N]), labels and groups (int or str [N]); a
            .csv or .parquet table with one row per step (columns id, time, one per channel,
            optionally label and group); or a .ts file of the UCR and UEA archives.
        labels: Labels of the series: "auto" takes those of the file, "none" ignores them.
        validation_fraction: Fraction of the source that is held out if there is no
            validation_source. Groups are held out as a whole.
        length: Maximum number of steps of a view; 0 is the number of steps of the longest series.
        normalize: "dataset" subtracts the mean and divides by the standard deviation per channel of
            the training split; "example" does so with the statistics of each series; "none" keeps
            the values.
    """

    ranges: ClassVar[Mapping[str, Range]] = {**DataConfig.ranges, "length": NOT_NEGATIVE}

    modality: str = "series"
    source: str = ""
    length: int = 0
    normalize: Literal["dataset", "example", "none"] = "dataset"
