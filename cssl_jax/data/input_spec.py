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

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of ``Source.blocks`` for examples that ``Modality.prepare`` takes."""
        return {"size": self.size}

    @property
    def preparation(self) -> str:
        """Description of how examples are prepared for the encoder; "" if there is none."""
        return ""

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
        interpolation: Kernel of test-time resizing, "bilinear" or "bicubic".
        crop_fraction: Side of the test-time centre crop as a fraction of the image's shorter side.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: str = dataclasses.field(default="image", kw_only=True)
    interpolation: str = dataclasses.field(default="bilinear", kw_only=True)
    crop_fraction: float = dataclasses.field(default=1.0, kw_only=True)

    @property
    def resized(self) -> int:
        """Side of the centre square, in pixels after resizing, that the input is cropped from."""
        return round(self.size / self.crop_fraction)

    @property
    def preparation(self) -> str:
        """Description of how images are prepared for the encoder."""
        mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        return (
            f"centre square of {self.crop_fraction:.4g} of the shorter side, resized to "
            f"{self.size} px ({self.interpolation}), mean {mean}, standard deviation {std}"
        )

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of ``Source.blocks`` for squares that ``prepare`` crops without resizing."""
        return {"size": self.resized, "interpolation": self.interpolation}
