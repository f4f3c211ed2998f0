"""Input that an encoder expects: base of all modalities, and that of images."""

import dataclasses
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Size and normalisation of an encoder's input; each modality has a subclass.

    Every checkpoint stores it, so that an encoder can be loaded without its training data. It is
    hashable: compiled functions take it as a static argument.

    Attributes:
        kind: Name of the modality, as in ``data.modality``.
        size: Size of a view, such as the side of an image in pixels.
    """

    kind: str
    size: int

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Builds the specification from a parsed JSON object; lists become tuples."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class ImageSpec(InputSpec):
    """Input of an image encoder.

    Attributes:
        size: Side of the encoder's square input, in pixels.
        channels: Number of image channels.
        mean: Mean per channel, on the scale [0, 1].
        std: Standard deviation per channel, on the scale [0, 1].
        kind: Name of the modality; checkpoints without it are of images.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: str = dataclasses.field(default="image", kw_only=True)
