"""A sheet of pictures and their views, an example a row, drawn by Pillow from arrays and words."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

SIDE, WIDEST = 224, 300  # pixels of the sheet that a square picture takes, and a wide one
MARGIN, GAP, HEAD = 36, 30, 92
LEADING = 18  # from line to line
FRAME, STROKE = 3, 2.5  # widths of a view's frame and of its outline on the original
INK, PALE, RULE = (28, 30, 33), (108, 114, 122), (222, 225, 229)
# One colour a view, which colour-blind eyes tell apart too (Okabe and Ito, 2008).
COLORS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0))
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class View:
    """One view of a picture.

    Attributes:
        pixels: uint8 [h, w, C].
        outline: float [4, 2], corners (x, y) of what it shows, in pixels of the original.
        words: What it underwent, an operation a line.
    """

    pixels: np.ndarray
    outline: np.ndarray
    words: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Example:
    """A row of the sheet.

    Attributes:
        pixels: The original, uint8 [h, w, C].
        words: What it is, a fact a line.
        views: Of it; every example has as many.
    """

    pixels: np.ndarray
    words: Sequence[str]
    views: Sequence[View]

    @property
    def texts(self) -> list[Sequence[str]]:
        """Of the original and of every view."""
        return [self.words, *(view.words for view in self.views)]


def draw_sheet(examples: Sequence[Example], title: str, subtitle: str) -> PIL.Image.Image:
    """Draws each original, with what its views show outlined in their colours, and the views.

    Small pictures are enlarged by a whole factor, pixels as they are; larger ones are resampled. Of
    more than 3 channels the first three are shown as colours, of 2 the first as grey.
    """
    rows = [_pictures(example) for example in examples]
    outlines = [_outlines(example, row[0]) for example, row in zip(examples, rows, strict=True)]
    beyond = [_beyond(corners, row[0]) for corners, row in zip(outlines, rows, strict=True)]
    (west, _, east, _), widths = np.max(beyond, axis=0), list(map(_width, zip(*rows, strict=True)))
    left = max(MARGIN, int(west) + 8)
    gaps = [max(GAP, int(east) + FRAME + 8), *[GAP] * (len(widths) - 1)]
    lefts = list(itertools.accumulate(map(sum, zip(widths, gaps, strict=True)), initial=left))
    texts = [list(map(_wrap, example.texts, widths)) for example in examples]
    tallest = [max(picture.height for picture in row) for row in rows]
    heights = [
        north + tall + south + 8 + LEADING * max(map(len, lines)) + GAP
        for (_, north, _, south), tall, lines in zip(beyond, tallest, texts, strict=True)
    ]
    tops = list(itertools.accumulate(heights, initial=MARGIN + HEAD))

    page = PIL.Image.new("RGB", (lefts[-1] - GAP + MARGIN, tops[-1]), "white")
    pen = PIL.ImageDraw.Draw(page)
    pen.text((left, MARGIN - 8), title, INK, _font(22))
    pen.text((left, MARGIN + 24), subtitle, PALE, _font(14))
    for number, x in enumerate(lefts[:-1]):
        name, color = (f"view {number}", _color(number - 1)) if number else ("original", INK)
        pen.text((x, MARGIN + HEAD - 28), name, color, _font(16))
    for number, row in enumerate(rows):
        (_, north, _, south), top = beyond[number], tops[number]
        if number:
            pen.line([(left, top - GAP // 2), (page.width - MARGIN, top - GAP // 2)], RULE)
        _paste(page, row, outlines[number], lefts, top + north)
        below = [row[0].height, *[tallest[number]] * (len(row) - 1)]  # a wide photo is a low one
        for x, depth, lines in zip(lefts, below, texts[number], strict=False):
            y = top + north + depth + south + 8
            pen.multiline_text((x, y), "\n".join(lines), INK, _font(14), spacing=4)
    return page


def _paste(
    page: PIL.Image.Image,
    row: Sequence[PIL.Image.Image],
    outlines: Sequence[np.ndarray],
    lefts: Sequence[int],
    top: int,
) -> None:
    """Puts the pictures of one row on the page, views in frames, outlines over the original."""
    pen = PIL.ImageDraw.Draw(page)
    for number, (picture, left) in enumerate(zip(row, lefts, strict=False)):
        if number:
            corner = (left + picture.width + FRAME - 1, top + picture.height + FRAME - 1)
            pen.rectangle([(left - FRAME, top - FRAME), corner], fill=_color(number - 1))
        page.paste(picture, (left, top))
    for number, corners in enumerate(outlines):
        _trace(page, np.add(corners, (lefts[0], top)), _color(number))


def _trace(page: PIL.Image.Image, corners: np.ndarray, color: Color) -> None:
    """Draws a closed line with a light rim, smooth at any angle."""
    low = np.floor(corners.min(axis=0)).astype(int) - 4
    size = tuple((np.ceil(corners.max(axis=0)).astype(int) + 5 - low).tolist())
    fine = 4  # Pillow draws lines without smoothing: larger, then reduced
    points = [tuple(point) for point in (corners - low) * fine]
    for width, ink in ((STROKE + 2, (255, 255, 255)), (STROKE, color)):
        mask = PIL.Image.new("L", (size[0] * fine, size[1] * fine))
        closed = [*points, *points[:2]]  # once around and on, so that every corner has its joint
        PIL.ImageDraw.Draw(mask).line(closed, 255, round(width * fine), joint="curve")
        page.paste(ink, tuple(low.tolist()), mask.resize(size, PIL.Image.Resampling.BOX))


def _pictures(example: Example) -> list[PIL.Image.Image]:
    return [_fit(example.pixels, WIDEST), *(_fit(view.pixels, SIDE) for view in example.views)]


def _fit(pixels: np.ndarray, widest: int) -> PIL.Image.Image:
    channels = pixels.shape[-1]
    shown = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    picture = PIL.Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
    width, height = picture.size
    factor = min(widest / width, SIDE / height)
    if int(factor) >= 0.8 * factor:
        size, kernel = (width * int(factor), height * int(factor)), PIL.Image.Resampling.NEAREST
    else:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        kernel = PIL.Image.Resampling.BICUBIC
    return picture.resize(size, kernel)


def _outlines(example: Example, original: PIL.Image.Image) -> list[np.ndarray]:
    """In pixels of the sheet; what reaches far beyond the original is bent to lie near it."""
    height, width = example.pixels.shape[:2]
    scale = np.array([original.width / width, original.height / height])
    far = np.array(original.size) + SIDE / 3
    return [(view.outline * scale).clip(-SIDE / 3, far) for view in example.views]


def _beyond(outlines: Sequence[np.ndarray], original: PIL.Image.Image) -> tuple[int, ...]:
    """How far outlines lie left of, above, right of and below the original, or frames of views."""
    corners = np.concatenate(outlines)
    over = [*-corners.min(axis=0), *(corners.max(axis=0) - original.size)]
    return tuple(int(np.ceil(max(FRAME, STROKE + value))) for value in over)


def _width(column: Sequence[PIL.Image.Image]) -> int:
    return max(SIDE, *(picture.width for picture in column))


def _wrap(paragraphs: Sequence[str], width: int) -> list[str]:
    """Lines no wider than ``width`` pixels, broken after commas; continued ones are indented."""
    font, lines = _font(14), []
    for paragraph in map(_printable, paragraphs):
        line = ""
        for item in paragraph.split(", "):
            longer = f"{line}, {item}" if line else item
            if line and font.getlength(longer) > width:
                lines.append(line + ",")
                longer = f"   {item}"
            line = _cut(longer, width)
        lines.append(line)
    return lines


def _cut(line: str, width: int) -> str:
    """The line, or as much of its begin and end as there is room for."""
    kept = len(line)
    while kept and _font(14).getlength(line) > width:
        kept -= 1
        line = f"{line[: kept // 2]}…{line[-(kept // 2) :]}" if kept > 1 else ""
    return line


def _printable(text: str) -> str:
    """Text in the letters of Pillow's own font: ASCII and few more."""
    return "".join(letter if letter.isascii() or letter in "°·…" else "?" for letter in text)


def _color(view: int) -> Color:
    return COLORS[view % len(COLORS)]


def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size)
