"""Figures of a run as images: plots by matplotlib (extra ``report``), sheets by Pillow alone."""

import importlib.util
import io
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from cssl_jax.data.sources import decode
from cssl_jax.errors import UserError
from cssl_jax.report.escape import printable
from cssl_jax.report.figures import gallery as galleries
from cssl_jax.report.figures import projections
from cssl_jax.report.figures.curves import Chart, charts
from cssl_jax.report.figures.gallery import Confusion, Gallery
from cssl_jax.report.figures.sheets import SHEETS
from cssl_jax.report.figures.thumbnails import make_sprite
from cssl_jax.report.html_data import RunContent
from cssl_jax.report.run_reader import RunFolder, open_run

KINDS = ("curves", *projections.KINDS, "confusion", "neighbours", "views")
NAMED_CLASSES = 24  # maximum number of classes named in a map's legend or beside a matrix
# Colour-blind-safe (after Okabe and Ito, 2008); the page's light palette.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#b84d8f", "#b07d00", "#3f9fd8", "#6a51a3", "#7a5230")
MARKERS = ("o", "^", "s", "D", "P")
INK, PALE = (28, 30, 33), (89, 97, 107)
Image = PIL.Image.Image


def available() -> bool:
    """True if matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(run: str | pathlib.Path, kind: str, *, images: int = galleries.IMAGES) -> Image:
    """Draws one figure of a run.

    Args:
        run: Run folder.
        kind: Name in ``KINDS``.
        images: Maximum number of validation images to embed.

    Raises:
        UserError: The kind is unknown, ``images`` is out of range, or the figure needs something
            that is missing: logged steps, a checkpoint, the data, labels, or a package.
    """
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; use {', '.join(KINDS)}")
    if not 1 <= images <= galleries.MAX_IMAGES:
        raise UserError(f"{images} images; give 1 to {galleries.MAX_IMAGES:,}")
    opened = open_run(run)
    if kind not in ("views", "neighbours"):
        _require_matplotlib()
    if kind in projections.KINDS:
        projections.check_available(kind)  # before the images are embedded, which takes long
    if kind == "curves":
        if not opened.steps:
            raise UserError(f"{run} has logged no step yet")
        return curves([opened])
    if kind == "views":
        return galleries.view_sheet(opened)
    gallery, encoder = galleries.open_gallery(opened, images=images)
    if kind == "neighbours":
        return neighbour_sheet(gallery, gallery.neighbours())
    if kind == "confusion":
        confusion = galleries.confusion(opened, gallery, encoder, images)
        return confusion_figure(confusion, gallery.classes, opened.name)
    return map_figure(gallery, kind, gallery.map(kind), opened.name)


def run_figures(content: RunContent) -> Iterator[tuple[str, str, Image]]:
    """Yields (title, kind, image) for every figure of a run's report except the curves."""
    gallery, name = content.gallery, content.run.name
    for kind, coordinates in content.coordinates.items():
        assert gallery is not None
        yield projections.TITLES[kind], kind, map_figure(gallery, kind, coordinates, name)
    if gallery is not None and content.neighbours is not None:
        yield "Nearest neighbours", "neighbours", neighbour_sheet(gallery, content.neighbours)
    if gallery is not None and content.confusion is not None:
        image = confusion_figure(content.confusion, gallery.classes, name)
        yield "Confusion matrix", "confusion", image
    if content.views is not None:
        yield "Views", "views", content.views
    for kind, sheet in content.sheets.items():
        yield SHEETS[kind].title, kind, sheet


def curves(runs: Sequence[RunFolder]) -> Image:
    """Draws all charts of the runs, with a separate colour per run."""
    return chart_figure(charts(runs))


def chart_figure(drawn: Sequence[Chart]) -> Image:
    """Draws charts in rows of three; at least one chart."""
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = new_figure(4.6 * columns, 3.1 * rows)
    styles = {
        "series upper": "--",
        "series lower": ":",
        "baseline": "--",
        "baseline dots": (0, (1, 2)),
    }
    for i, chart in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, i + 1)
        for series in chart.series:
            # Markers only on short lines: a single point would be invisible without one.
            marker = "o" if len(series.x) <= 12 and not series.baseline else None
            axes.plot(
                series.x,
                series.y,
                linestyle=styles.get(series.look, "-"),
                color=COLORS[series.run % len(COLORS)],
                linewidth=1.2 if series.baseline else 1.8,
                alpha=0.75 if series.baseline else 1.0,
                marker=marker,
                markersize=4,
                label=plain(series.label),
            )
        axes.set(title=chart.title, xlabel="epoch", ylabel=chart.unit)
        if chart.logarithmic:
            axes.set_yscale("log")
        if chart.from_zero:
            axes.update_datalim([(0, 0)])
            axes.autoscale_view()
        tidy(axes)
        if len(chart.series) > 1:
            axes.legend(fontsize=7, frameon=False)
    return as_image(figure)


def map_figure(gallery: Gallery, kind: str, coordinates: np.ndarray, name: str) -> Image:
    """Draws a map of images as points; colour and shape show the class.

    Args:
        gallery: Images with their labels, n of them.
        kind: Kind of the map, for the title; name in ``projections.KINDS``.
        coordinates: Float array [n, 2].
        name: Name of the run, for the title.
    """
    figure = new_figure(7.6, 6.4)
    axes = figure.add_subplot()
    size = 60 / math.sqrt(max(1, len(coordinates) / 100))
    labels = gallery.labels
    groups = np.zeros(len(coordinates), int) if labels is None else labels
    for label in np.unique(groups):
        members = groups == label
        title = None if labels is None else gallery.classes[label] if label >= 0 else "no label"
        axes.scatter(
            *coordinates[members].T,
            s=size,
            color=COLORS[label % len(COLORS)] if label >= 0 else "#c9ced5",
            marker=MARKERS[label // len(COLORS) % len(MARKERS)] if label >= 0 else "o",
            alpha=0.8,
            linewidths=0,
            label=None if title is None else plain(title),
        )
    title = projections.TITLES[kind]
    unit = "" if kind == "pca" else " (no unit)"
    axes.set(
        title=plain(f"{name}, step {gallery.step}: {title} of {len(gallery):,} images"),
        xlabel=f"{title} 1{unit}",
        ylabel=f"{title} 2{unit}",
        aspect="equal",
        adjustable="datalim",
    )
    tidy(axes)
    if labels is not None and len(np.unique(groups)) <= NAMED_CLASSES:
        axes.legend(
            bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False, markerscale=1.5
        )
    return as_image(figure)


def confusion_figure(confusion: Confusion, classes: Sequence[str], name: str) -> Image:
    """Draws a confusion matrix; the colour of a cell shows its fraction of the row.

    Args:
        confusion: Matrix of C classes.
        classes: Names of the first classes; further classes are shown by number.
        name: Name of the run, for the title.
    """
    counts = confusion.counts
    few = len(counts) <= NAMED_CLASSES
    side = 2.4 + 0.36 * len(counts) if few else 8.0
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    hits = np.trace(counts) / max(counts.sum(), 1)
    axes.set(
        title=plain(f"{name}: {hits:.1%} on the diagonal"),
        xlabel="predicted class",
        ylabel="true class",
    )
    if few:
        names = [*classes, *map(str, range(len(classes), len(counts)))]
        names = [plain(n if len(n) <= 16 else n[:15] + "…") for n in names]
        axes.set_xticks(range(len(counts)), names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(counts)), names, fontsize=8)
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if fractions[row, column] > 0.55 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    return as_image(figure)


def neighbour_sheet(gallery: Gallery, neighbours: np.ndarray) -> Image:
    """Draws one row per query: the query image and its nearest images.

    A blue frame marks an image of the query's class, an orange frame an image of another class.
    """
    queries = gallery.queries()
    # Only images on the sheet are read again from the source.
    drawn = np.unique(np.concatenate([queries, neighbours[queries].ravel()]))
    sprite = make_sprite(gallery.source.take(drawn), gallery.modality)
    tile_of = {int(index): tile for tile, index in enumerate(drawn)}
    side, gap, margin, line = 84, 14, 24, 18
    columns = 1 + neighbours.shape[1]
    width = 2 * margin + columns * (side + gap) + gap
    page = PIL.Image.new("RGB", (width, 2 * margin + len(queries) * (side + line + gap)), "white")
    pen, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(12)
    labels = gallery.labels
    # Nearest neighbour keeps the pixels of very small images visible.
    nearest = PIL.Image.Resampling.NEAREST
    kernel = nearest if sprite.side <= 32 else PIL.Image.Resampling.BICUBIC
    for row, query in enumerate(queries):
        top = margin + row * (side + line + gap)
        for column, i in enumerate([query, *neighbours[query]]):
            left = margin + column * (side + gap) + (gap if column else 0)
            if column and labels is not None and min(labels[i], labels[query]) >= 0:
                color = COLORS[0] if labels[i] == labels[query] else COLORS[1]
                corner = (left + side + 2, top + side + 2)
                pen.rectangle([(left - 3, top - 3), corner], fill=color)
            page.paste(sprite.tile(tile_of[int(i)]).resize((side, side), kernel), (left, top))
            labelled = labels is not None and labels[i] >= 0
            name = gallery.classes[labels[i]] if labelled else gallery.names[i]  # type: ignore[index]
            text = _fitting(name, side + gap - 4, font)
            pen.text((left, top + side + 4), text, INK if column == 0 else PALE, font)
    return page


def _fitting(text: str, width: int, font: Any) -> str:
    """Cuts a text to a width in pixels; "?" replaces characters outside printable ASCII."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _require_matplotlib() -> None:
    if not available():
        raise UserError(f"figures need matplotlib, which is not installed: {projections.INSTALL}")


def new_figure(width: float, height: float) -> Any:
    """Creates an empty matplotlib figure.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_image(figure: Any) -> Image:
    """Renders a matplotlib figure as an RGB image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return PIL.Image.fromarray(decode.decode(buffer.getvalue(), 3))


def tidy(axes: Any) -> None:
    """Applies the style that all plots have in common."""
    axes.grid(True, color="#d9dde3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def plain(text: str) -> str:
    """Escapes a text for matplotlib, which would parse mathematics between dollar signs."""
    return printable(text).replace("$", r"\$")
