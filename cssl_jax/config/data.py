"""Config section data: which images, and how they are read."""

import dataclasses
from typing import Literal

from cssl_jax.config.images import ImageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sources:
    """Fields that the help of a command lists first."""

    source: str = "digits"
    validation_source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(ImageOptions, _Sources):
    """Where examples come from.

    Attributes:
        source: Training images of any size: a folder, a .csv list (path, label), "tfds:NAME@SPLIT",
            a .parquet file, "wds:SHARDS.tar" or "file.py:NAME:PLACE" (a format of your own, see
            docs/extending.md); an .npz file with images (uint8 [N, H, W, C]) and
            optionally labels (int [N]); or "digits" (embedded).
        validation_source: Images to validate on, given as source; "" holds out a split of source.
        validation_fraction: Fraction of the source that is held out if there is no
            validation_source.
        split_seed: Seed of the split into training and validation images; None uses train.seed.
        classes: Class names in the order of their numbers; empty: those of the source. Labels of
            every source are matched by name; labels without names are matched by number.
        unknown_classes: What to do with classes of the validation images (or of adapt.target) that
            the source lacks: "refuse" them, or "exclude" their images from evaluation by label.
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

    validation_fraction: float = 0.2
    split_seed: int | None = None
    classes: tuple[str, ...] = ()
    unknown_classes: Literal["refuse", "exclude"] = "refuse"
    size: int = 0
    normalize: Literal["dataset", "unit"] = "dataset"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment_on: Literal["auto", "device", "host", "split"] = "auto"
    resident: bool | Literal["split"] | None = None
    engine: Literal["auto", "tf", "threads"] = "auto"
