"""Sprites: thumbnails of many images on one sheet, for a web page."""

import base64
import dataclasses
import io
import math

import numpy as np
import PIL.Image

from cssl_jax.data.sources.base import Source

SIDE = 48  # thumbnail side of a large image in pixels: a multiple of 16, the block of the codec
EXACT = 32  # maximum side in pixels of an image that is kept unchanged


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


def make_sprite(source: Source) -> Sprite:
    """Builds a sprite of all images of a source, in RGB or grey.

    If no image is larger than 32 px, the images keep their pixels and the thumbnail side is the
    largest image side. Otherwise larger images are reduced to fit 48 px. The rest of a
    thumbnail's square is black.
    """
    largest = source.sizes.max()
    side = int(largest) if largest <= EXACT else SIDE
    columns = max(1, math.ceil(math.sqrt(len(source))))
    rows = max(1, math.ceil(len(source) / columns))
    mode = "RGB" if source.channels >= 3 else "L"
    sheet = PIL.Image.new(mode, (columns * side, rows * side))
    number = 0
    for block in source.blocks(256, side):
        for pixels in block:
            top, left = divmod(number, columns)
            tile = _fitted(pixels, side)
            offset = (side - tile.width) // 2, (side - tile.height) // 2
            sheet.paste(tile, (left * side + offset[0], top * side + offset[1]))
            number += 1
    return Sprite(sheet, side, columns, number)


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
