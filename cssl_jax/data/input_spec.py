"""What an encoder takes, and the size of images as raw features."""

import dataclasses
from typing import Any

from cssl_jax.data.sources.base import ArraySource, Source

PIXEL_SIDE = 32


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What an encoder takes; saved with every checkpoint, so that it loads without its data.

    Attributes:
        size: Side of the encoder's input in pixels.
        channels: Of the images.
        mean: A channel, on the scale [0, 1].
        std: A channel.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "InputSpec":
        """From JSON."""
        lists = {"mean": tuple(content["mean"]), "std": tuple(content["std"])}
        return cls(size=content["size"], channels=content["channels"], **lists)


def pixel_sides(source: Source) -> tuple[int, int]:
    """Height and width of the images that ``pixels`` makes of a source's."""
    if not isinstance(source, ArraySource):
        return PIXEL_SIDE, PIXEL_SIDE
    height, width = source.images.shape[1:3]
    return min(height, PIXEL_SIDE), min(width, PIXEL_SIDE)
