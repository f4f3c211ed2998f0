"""Of a config: which images, and how they are read."""

import dataclasses
from typing import Literal

from cssl_jax.config.images import ImageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(ImageOptions):
    """Where examples come from.

    Attributes:
        source: Pictures of any size: a folder, a .csv list (path, label), "tfds:NAME@SPLIT",
            a .parquet file, or "wds:SHARDS.tar"; an .npz file with images (uint8 [N, H, W, C]) and,
            optional, labels (int [N]); or "digits" (embedded).
        validation_source: A source of its own to validate on; "" holds out a part of the source.
        validation_fraction: Share of the source that is held out, without validation_source.
        split_seed: Of the split; None follows train.seed.
        classes: Class names in the order of their numbers; by default those of the source. Labels
            of every source are matched by name; labels without names are numbers.
        unknown_classes: Classes of the validation images (or of adapt.target) that the source
            lacks: "refuse", or "exclude" their images from what is evaluated by label.
        size: Side of a view in pixels; 0 is the height of the source's images.
        normalize: "dataset" computes mean and standard deviation a channel on the training part,
            and "unit" leaves values in [0, 1], as the SimCLR code does.
        mean: Mean a channel on the scale [0, 1]; given, it replaces the computed one.
        std: Standard deviation a channel; given with mean.
        augment_on: "device" (JAX, in the compiled step), "host", "split" (crop and resize on the
            host, the rest on the device), or "auto" (device for arrays, split for pictures).
        resident: Keep the images on the devices: all on each (True), a part on each ("split", each
            step fetches its rows over the network), or none; None decides by size.
        engine: Of the host: "tf" (tf.data), "threads" (no TensorFlow), or "auto" (tf where it is
            installed).
    """

    source: str = "digits"
    validation_source: str = ""
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
