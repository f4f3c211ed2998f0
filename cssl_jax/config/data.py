"""Config section data: which examples, and how they are read."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from cssl_jax.config.images import ImageOptions, ReadOptions
from cssl_jax.config.ranges import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, SEED, Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sources:
    """Fields that the help of a command lists first."""

    source: str = ""
    validation_source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(ReadOptions, _Sources):
    """Where examples come from. A modality has a subclass with options of its own.

    Attributes:
        modality: Kind of the examples: "image"; or file.py:NAME of your own. Another modality than
            the recipe's has that modality's default options, in augment.* too.
        source: Training examples, as the modality opens them.
        validation_source: Examples to validate on, given as source; "" holds out a split of source.
        validation_fraction: Fraction of the source that is held out if there is no
            validation_source.
        split_seed: Seed of the split into training and validation examples; None uses train.seed.
        classes: Class names in the order of their numbers; empty: those of the source. Labels of
            every source are matched by name; labels without names are matched by number.
        unknown_classes: What to do with classes of the validation examples (or of adapt.target)
            that the source lacks: "refuse" them, or "exclude" their examples from evaluation by
            label.
        resident: Keep the examples on the devices: True is a copy on each, "split" divides them
            among the devices and each step fetches its rows over the network, False keeps none.
            None decides by size.
    """

    # Allowed values of the options that are numbers, by field.
    ranges: ClassVar[Mapping[str, Range]] = {
        "max_rejected": FRACTION,
        "validation_fraction": BELOW_ONE,
        "split_seed": SEED,
    }

    modality: str = "image"
    validation_fraction: float = 0.2
    split_seed: int | None = None
    classes: tuple[str, ...] = ()
    unknown_classes: Literal["refuse", "exclude"] = "refuse"
    resident: bool | Literal["split"] | None = None

    def for_other_source(self) -> Self:
        """The options without those that apply to the present source only."""
        return dataclasses.replace(self, labels="auto")

    @property
    def identity(self) -> tuple[Any, ...]:
        """Options that determine the set of examples and its split into training and validation."""
        return self.source, self.validation_source, self.validation_fraction, self.split_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData(ImageOptions, DataConfig):
    """Where images come from, and the input of an image encoder.

    Attributes:
        source: Training images of any size: a folder, a .csv list (path, label), "tfds:NAME@SPLIT",
            a .parquet file, "wds:SHARDS.tar" or "file.py:NAME:PLACE" (a format of your own, see
            docs/extending.md); an .npz file with images (uint8 [N, H, W, C]) and
            optionally labels (int [N]); or "digits" (embedded).
        size: Side of a view in pixels; 0 is the height of the source's images.
        normalize: "dataset" subtracts the mean and divides by the standard deviation per channel of
            the training split; "unit" leaves values in [0, 1], as the SimCLR code does.
        mean: Mean per channel on the scale [0, 1]; replaces the computed one.
        std: Standard deviation per channel on the scale [0, 1]; given together with mean.
        augment_on: Where views are computed: "device" (JAX, in the compiled step), "host", or
            with "split" crop and resize on the host and the rest on the device. By default,
            with "auto", it is device for arrays and split for image files.
        resident: Keep the decoded images on the devices: True is a copy on each, "split" divides
            them among the devices and each step fetches its rows over the network, False keeps
            none. None decides by size.
        engine: Loader on the host: "tf" (tf.data), "threads" (without TensorFlow), or "auto" (tf
            where TensorFlow is installed).
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        **DataConfig.ranges,
        "min_side": POSITIVE,
        "max_pixels": POSITIVE,
        "size": NOT_NEGATIVE,
        "channels": Range(lambda value: value in (1, 3, 4), "1, 3 or 4"),
    }

    source: str = "digits"
    size: int = 0
    normalize: Literal["dataset", "unit"] = "dataset"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment_on: Literal["auto", "device", "host", "split"] = "auto"
    engine: Literal["auto", "tf", "threads"] = "auto"

    def for_other_source(self) -> Self:
        """The options without those that apply to the present images only."""
        return dataclasses.replace(super().for_other_source(), in_memory=None)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Options that determine the set of images and its split into training and validation."""
        return (*super().identity, self.min_side, self.max_pixels, self.image_key)
