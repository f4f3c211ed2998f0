"""Sprites: thumbnails of many examples on one sheet, for a web page."""

import base64
import dataclasses
import io
import itertools
import math

import numpy as np
import PIL.Image

from cssl_jax.data.sources.base import Source
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.image import IMAGE


@dataclasses.dataclass(frozen=True)
class Sprite:
    """Thumbnails on a sheet that is about square.

    Attributes:
        image: Sheet; thumbnail i is in row i // columns and column i % columns.
        side: Side of a thumbnail in pixels.
        columns: Thumbnails per row.
        count: Number of thumbnails.
    """

    image: PIL.Image.Image
    side: int
    columns: int
    count: int

    def tile(self, i: int) -> PIL.Image.Image:
        """Crops thumbnail ``i`` out of the sheet."""
        top, left = divmod(i, self.columns)
        box = (left, top, left + 1, top + 1)
        return self.image.crop(tuple(self.side * edge for edge in box))  # type: ignore[arg-type]


def make_sprite(source: Source, modality: Modality = IMAGE) -> Sprite:
    """Builds a sprite of all examples of a source, in RGB or grey.

    ``Modality.show`` gives an image per example and the thumbnail side. Larger images are reduced
    to fit it. The rest of a thumbnail's square is black.
    """
    side, images = modality.show(source)
    columns = max(1, math.ceil(math.sqrt(len(source))))
    rows = max(1, math.ceil(len(source) / columns))
    tiles = (_fitted(pixels, side) for pixels in images)
    first = next(tiles)
    sheet = PIL.Image.new(first.mode, (columns * side, rows * side))
    for number, tile in enumerate(itertools.chain([first], tiles)):
        top, left = divmod(number, columns)
        offset = (side - tile.width) // 2, (side - tile.height) // 2
        sheet.paste(tile, (left * side + offset[0], top * side + offset[1]))
    return Sprite(sheet, side, columns, len(source))


def _fitted(pixels: np.ndarray, side: int) -> PIL.Image.Image:
    """Reduces an image uint8 [h, w, C] to at most ``side`` pixels; smaller ones are unchanged."""
    visible = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    image = PIL.Image.fromarray(np.ascontiguousarray(visible))
    longest = max(image.size)
    if longest <= side:
        return image
    size = tuple(max(1, round(length * side / longest)) for length in image.size)
    return image.resize(size, PIL.Image.Resampling.BOX)  # type: ignore[arg-type]


def data_uri(image: PIL.Image.Image, *, exact: bool) -> str:
    """Encodes an image as a data: URI: lossless WebP if ``exact``, else JPEG of quality 75.

    The lossy format is JPEG because it encodes a sprite of 10,000 thumbnails in a fraction of the
    4 s that WebP takes at the same size.
    """
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "WEBP", lossless=True, method=4)
    else:
        image.save(buffer, "JPEG", quality=75, optimize=True)
    kind = "webp" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
