"""Config fields that say how image files become examples."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How examples of any modality are read.

    Attributes:
        labels: Labels of a folder: "auto" (sub-folders are classes if every file is in one of two
            or more), "folder" (sub-folders must be classes), "none", or the path of a .csv file
            with columns path and label.
        max_rejected: Maximum fraction of examples that may be excluded (broken, too small,
            duplicates); above it the run refuses to start.
    """

    labels: str = "auto"
    max_rejected: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(ReadOptions):
    """How image files of any size and format are read; arrays (digits, .npz) are used unchanged.

    Attributes:
        labels: Labels of a folder: "auto" (sub-folders are classes if every image is in one of two
            or more), "folder" (sub-folders must be classes), "none", or the path of a .csv file
            with columns path and label.
        image_key: TFDS feature, shard extension or parquet column of the image; "" detects it.
        label_key: TFDS feature, shard extension or parquet column of the label; "" detects it.
        channels: Number of channels that images are converted to: 3, 1 (grey) or 4 (with
            transparency).
        min_side: Minimum side in pixels; images with a shorter side are excluded.
        max_pixels: Maximum number of pixels; larger images are excluded before they are decoded.
        max_rejected: Maximum fraction of images that may be excluded (broken, too small,
            duplicates); above it the run refuses to start.
        in_memory: Decode all images once into an array that the device augments; they must have one
            size. None does so if they have one size and take at most 1 GiB.
    """

    image_key: str = ""
    label_key: str = ""
    channels: int = 3
    min_side: int = 8
    max_pixels: int = 100_000_000
    in_memory: bool | None = None
