"""Input specification of an encoder, and the image size of the raw-pixel baseline."""

import dataclasses
from typing import Any

from cssl_jax.data.sources.base import ArraySource, Source

PIXEL_SIDE = 32  # pixels; larger images are reduced to this side for the raw-pixel baseline


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Image size, channels and normalization that an encoder expects.

    Every checkpoint stores it, so that an encoder can be loaded without its training data.

    Attributes:
        size: Side of the encoder's square input, in pixels.
        channels: Number of image channels.
        mean: Mean per channel, on the scale [0, 1].
        std: Standard deviation per channel, on the scale [0, 1].
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "InputSpec":
        """Builds the specification from a parsed JSON object."""
        statistics = {"mean": tuple(content["mean"]), "std": tuple(content["std"])}
        return cls(size=content["size"], channels=content["channels"], **statistics)


def pixel_sides(source: Source) -> tuple[int, int]:
    """Height and width in pixels to which the raw-pixel baseline brings the images of a source."""
    if not isinstance(source, ArraySource):
        return PIXEL_SIDE, PIXEL_SIDE
    height, width = source.images.shape[1:3]
    return min(height, PIXEL_SIDE), min(width, PIXEL_SIDE)
