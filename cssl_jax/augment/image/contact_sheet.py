"""Contact sheet of images and their views, one example per row, drawn with Pillow."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

# All lengths are in pixels of the sheet.
SIDE, WIDEST = 224, 300  # side of a square image, and maximum width of a wide one
MARGIN, GAP, HEAD = 36, 30, 92  # outer margin, gap between cells, height of the title
LEADING = 18  # distance between lines of text
FRAME, STROKE = 3, 2.5  # widths of a view's frame and of its outline on the original
INK, PALE, RULE = (28, 30, 33), (108, 114, 122), (222, 225, 229)  # colours of text and lines
# One colour per view, distinguishable for colour-blind readers too (Okabe and Ito, 2008).
COLORS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0))
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class View:
    """One view of an image.

    Attributes:
        pixels: Pixels of the view, uint8 [h, w, C].
        outline: float [4, 2], corners (x, y) of the region that the view shows, in pixels of the
            original; None for an image of the whole, which has no frame either.
        description: Description of the operations, one operation per line.
    """

    pixels: np.ndarray
    outline: np.ndarray | None
    description: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Example:
    """One example and its views, a row of the sheet.

    Attributes:
        pixels: Pixels of the original image, uint8 [h, w, C].
        description: Description of the example, one fact per line.
        views: Views of the example; every example of a sheet has the same number.
    """

    pixels: np.ndarray
    description: Sequence[str]
    views: Sequence[View]

    @property
    def texts(self) -> list[Sequence[str]]:
        """Descriptions of the original and of every view, in the order of the columns."""
        return [self.description, *(view.description for view in self.views)]


def draw_sheet(
    examples: Sequence[Example], title: str, subtitle: str, heads: Sequence[str] = ()
) -> PIL.Image.Image:
    """Draws each original with the outlines of its views, and the views themselves.

    Small images are enlarged by an integer factor without smoothing, and larger ones are resampled.
    Images with more than 3 channels are shown by the first three as RGB, images with 2 channels by
    the first as grey.

    Args:
        examples: Rows of the sheet, at least one.
        title: Headline of the sheet.
        subtitle: Second line of the heading.
        heads: Titles of the columns; by default the original and the numbers of the views.

    Returns:
        The sheet, an RGB image.
    """
    rows = [_scaled_images(example) for example in examples]
    outlines = [_outlines(example, row[0]) for example, row in zip(examples, rows, strict=True)]
    overhangs = [_overhang(corners, row[0]) for corners, row in zip(outlines, rows, strict=True)]
    widths = list(map(_width, zip(*rows, strict=True)))
    west, _, east, _ = np.max(overhangs, axis=0)
    left = max(MARGIN, int(west) + 8)
    gaps = [max(GAP, int(east) + FRAME + 8), *[GAP] * (len(widths) - 1)]
    lefts = list(itertools.accumulate(map(sum, zip(widths, gaps, strict=True)), initial=left))
    texts = [list(map(_wrap, example.texts, widths)) for example in examples]
    tallest = [max(image.height for image in row) for row in rows]
    heights = [
        north + height + south + 8 + LEADING * max(map(len, lines)) + GAP
        for (_, north, _, south), height, lines in zip(overhangs, tallest, texts, strict=True)
    ]
    tops = list(itertools.accumulate(heights, initial=MARGIN + HEAD))

    page = PIL.Image.new("RGB", (lefts[-1] - GAP + MARGIN, tops[-1]), "white")
    pen = PIL.ImageDraw.Draw(page)
    pen.text((left, MARGIN - 8), title, INK, _font(22))
    pen.text((left, MARGIN + 24), subtitle, PALE, _font(14))
    heads = heads or ["original", *(f"view {number}" for number in range(1, len(widths)))]
    framed = [True, *(view.outline is not None for view in examples[0].views)]
    for number, (x, head) in enumerate(zip(lefts, heads, strict=False)):
        color = _color(number - 1) if number and framed[number] else INK
        pen.text((x, MARGIN + HEAD - 28), head, color, _font(16))
    for number, row in enumerate(rows):
        (_, north, _, south), top = overhangs[number], tops[number]
        if number:
            pen.line([(left, top - GAP // 2), (page.width - MARGIN, top - GAP // 2)], RULE)
        _paste(page, row, outlines[number], lefts, top + north, framed)
        # A wide original is lower than its views, so its text begins higher.
        image_heights = [row[0].height, *[tallest[number]] * (len(row) - 1)]
        for x, height, lines in zip(lefts, image_heights, texts[number], strict=False):
            y = top + north + height + south + 8
            pen.multiline_text((x, y), "\n".join(lines), INK, _font(14), spacing=4)
    return page


def _paste(
    page: PIL.Image.Image,
    row: Sequence[PIL.Image.Image],
    outlines: Sequence[np.ndarray],
    lefts: Sequence[int],
    top: int,
    framed: Sequence[bool],
) -> None:
    """Puts the images of one row on the page, with frames and outlines."""
    pen = PIL.ImageDraw.Draw(page)
    for number, (image, left) in enumerate(zip(row, lefts, strict=False)):
        if number and framed[number]:  # column 0 is the original, which has no frame
            corner = (left + image.width + FRAME - 1, top + image.height + FRAME - 1)
            pen.rectangle([(left - FRAME, top - FRAME), corner], fill=_color(number - 1))
        page.paste(image, (left, top))
    for number, corners in enumerate(outlines):
        _draw_outline(page, np.add(corners, (lefts[0], top)), _color(number))


def _draw_outline(page: PIL.Image.Image, corners: np.ndarray, color: Color) -> None:
    """Draws an antialiased closed line with a light rim."""
    low = np.floor(corners.min(axis=0)).astype(int) - 4
    size = tuple((np.ceil(corners.max(axis=0)).astype(int) + 5 - low).tolist())
    fine = 4  # Pillow draws lines without antialiasing: the mask is drawn larger, then reduced
    points = [tuple(point) for point in (corners - low) * fine]
    for width, ink in ((STROKE + 2, (255, 255, 255)), (STROKE, color)):
        mask = PIL.Image.new("L", (size[0] * fine, size[1] * fine))
        closed = [*points, *points[:2]]  # passes the first corner twice, so that it is rounded too
        PIL.ImageDraw.Draw(mask).line(closed, 255, round(width * fine), joint="curve")
        page.paste(ink, tuple(low.tolist()), mask.resize(size, PIL.Image.Resampling.BOX))


def _scaled_images(example: Example) -> list[PIL.Image.Image]:
    """Images of the original and of every view, scaled to the cells of the sheet."""
    return [_fit(example.pixels, WIDEST), *(_fit(view.pixels, SIDE) for view in example.views)]


def _fit(pixels: np.ndarray, widest: int) -> PIL.Image.Image:
    channels = pixels.shape[-1]
    shown = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    image = PIL.Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
    width, height = image.size
    factor = min(widest / width, SIDE / height)
    if int(factor) >= 0.8 * factor:  # an integer factor fills at least 80 % of the cell
        size, kernel = (width * int(factor), height * int(factor)), PIL.Image.Resampling.NEAREST
    else:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        kernel = PIL.Image.Resampling.BICUBIC
    return image.resize(size, kernel)


def _outlines(example: Example, original: PIL.Image.Image) -> list[np.ndarray]:
    """Outlines of the views in pixels of the sheet, clipped to the surroundings of the original."""
    height, width = example.pixels.shape[:2]
    scale = np.array([original.width / width, original.height / height])
    limit = np.array(original.size) + SIDE / 3
    outlines = (view.outline for view in example.views if view.outline is not None)
    return [(outline * scale).clip(-SIDE / 3, limit) for outline in outlines]


def _overhang(outlines: Sequence[np.ndarray], original: PIL.Image.Image) -> tuple[int, ...]:
    """Space in pixels for outlines or frames left of, above, right of and below the original."""
    corners = np.concatenate([*outlines, np.array([[0, 0], original.size])])
    excess = [*-corners.min(axis=0), *(corners.max(axis=0) - original.size)]
    return tuple(int(np.ceil(max(FRAME, STROKE + value))) for value in excess)


def _width(column: Sequence[PIL.Image.Image]) -> int:
    return max(SIDE, *(image.width for image in column))


def _wrap(paragraphs: Sequence[str], width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken after commas; continuation lines are indented."""
    font, lines = _font(14), []
    for paragraph in map(_printable, paragraphs):
        line = ""
        for item in paragraph.split(", "):
            longer = f"{line}, {item}" if line else item
            if line and font.getlength(longer) > width:
                lines.append(line + ",")
                longer = f"   {item}"
            line = _shorten(longer, width)
        lines.append(line)
    return lines


def _shorten(line: str, width: int) -> str:
    """The line, or its beginning and end around an ellipsis if it exceeds ``width`` pixels."""
    kept = len(line)
    while kept and _font(14).getlength(line) > width:
        kept -= 1
        line = f"{line[: kept // 2]}…{line[-(kept // 2) :]}" if kept > 1 else ""
    return line


def _printable(text: str) -> str:
    """Text with "?" for characters that Pillow's default font lacks (almost all but ASCII)."""
    return "".join(letter if letter.isascii() or letter in "°·…" else "?" for letter in text)


def _color(view: int) -> Color:
    return COLORS[view % len(COLORS)]


def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size)
