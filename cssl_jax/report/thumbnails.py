"""Many small pictures in one: a sprite, as a web page takes it."""

import base64
import dataclasses
import io
import math

import numpy as np
import PIL.Image

from cssl_jax.data.sources.base import Source

SIDE = 48  # pixels of a large picture's thumbnail: a multiple of 16, the codec's block
EXACT = 32  # pictures no larger are kept as they are


@dataclasses.dataclass(frozen=True)
class Sprite:
    """Thumbnails in rows of a square sheet.

    Attributes:
        image: All of them; thumbnail i lies in row i // columns, column i % columns.
        side: Of a thumbnail in pixels.
        columns: Thumbnails in a row.
        count: Thumbnails.
    """

    image: PIL.Image.Image
    side: int
    columns: int
    count: int

    def tile(self, i: int) -> PIL.Image.Image:
        """One thumbnail."""
        top, left = divmod(i, self.columns)
        box = (left, top, left + 1, top + 1)
        return self.image.crop(tuple(self.side * edge for edge in box))  # type: ignore[arg-type]


def make_sprite(source: Source) -> Sprite:
    """Reduces all pictures of a source to thumbnails, RGB or grey.

    Square pictures of at most 32 px stay as they are; others are reduced to fit 48 px, the rest of
    the square black.
    """
    sides = source.sizes.max()
    side = int(sides) if sides <= EXACT else SIDE
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
    """One picture uint8 [h, w, C], no larger than ``side``."""
    shown = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    picture = PIL.Image.fromarray(np.ascontiguousarray(shown))
    longest = max(picture.size)
    if longest <= side:
        return picture
    size = tuple(max(1, round(length * side / longest)) for length in picture.size)
    return picture.resize(size, PIL.Image.Resampling.BOX)  # type: ignore[arg-type]


def data_uri(image: PIL.Image.Image, *, exact: bool) -> str:
    """An image in a data: URI: WebP that keeps every pixel if ``exact``, else JPEG of quality 75.

    JPEG, since a sprite of 10,000 thumbnails is encoded in a fraction of the 4 s that WebP takes at
    the same size.
    """
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "WEBP", lossless=True, method=4)
    else:
        image.save(buffer, "JPEG", quality=75, optimize=True)
    kind = "webp" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
