"""How picture files become examples."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How pictures of any size and format are read; arrays (digits, .npz) are what they are.

    Attributes:
        labels: Of a folder: "auto" (a class a sub-folder, where every picture lies in one of two or
            more), "folder" (insist on that), "none", or the path of a labels.csv (path, label).
        image_key: TFDS feature, shard extension or parquet column of the picture; "" finds it.
        label_key: Likewise of the label.
        channels: To which pictures are brought: 3, 1 (grey) or 4 (with transparency).
        min_side: Pictures with a shorter side are left out, in pixels.
        max_pixels: Pictures with more are left out before they are decoded.
        max_rejected: Share of pictures that may be left out (broken, too small, duplicates) before
            the run refuses to start.
        in_memory: Decode all pictures once into an array that the device augments; they must be of
            one size. None does where they are and take at most 1 GiB.
    """

    labels: str = "auto"
    image_key: str = ""
    label_key: str = ""
    channels: int = 3
    min_side: int = 8
    max_pixels: int = 100_000_000
    max_rejected: float = 0.1
    in_memory: bool | None = None
