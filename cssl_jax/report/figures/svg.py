"""Charts and matrices as inline SVG; CSS classes set the colours, which follow the page's theme."""

import html
import math
from collections.abc import Sequence

import numpy as np

from cssl_jax.report.figures.curves import Chart

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
INTERVALS = 5  # approximate number of intervals between ticks
MAX_POINTS = 400  # maximum number of points per line; more are averaged in groups
MAX_NUMBERED = 20  # maximum number of classes for which the counts are written into the cells


def line_chart(chart: Chart) -> str:
    """A chart with labelled axes. Every series is a ``polyline`` of class ``c0``, ``c1``, ...

    Non-finite values are skipped, and on a logarithmic axis values that are not positive.

    Returns:
        SVG element; "" if no value is left to draw.
    """
    xs = [x for series in chart.series for x in series.x]
    drawn = [(series, thin(series.x, series.y)) for series in chart.series]
    if chart.logarithmic:
        drawn = [(s, [(x, math.log10(y)) for x, y in points if y > 0]) for s, points in drawn]
    ys = [y for _, points in drawn for _, y in points]
    if not ys:
        return ""
    ys += [0.0] if chart.from_zero else []
    x_ticks, y_ticks = ticks(min([0.0, *xs]), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min([0.0, *xs]), max(max(xs), 1e-9)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def to_pixels(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / ((y_high - y_low) or 1.0) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = []
    for y in y_ticks:
        _, level = to_pixels(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_at("y", level)}/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">')
        parts.append(f"{number(10**y if chart.logarithmic else y)}</text>")
    for x in x_ticks:
        across, _ = to_pixels(x, y_low)
        if across > WIDTH - RIGHT + 1:  # the last round number may be beyond the last epoch
            continue
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" ')
        parts.append(f'text-anchor="middle">{number(x)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_at("y", base)}/>')
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" ')
    parts.append('text-anchor="middle">epoch</text>')
    if chart.unit:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(f'<text class="label" transform="translate(12 {middle}) rotate(-90)" ')
        parts.append(f'text-anchor="middle">{html.escape(chart.unit)}</text>')
    for series, values in drawn:
        points = [to_pixels(x, y) for x, y in values]
        classes = f"{series.look} c{series.run % 8}"
        title = f"<title>{html.escape(series.label)}</title>"
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{classes}" points="{text}">')
        parts.append(f"{title}</polyline>")
        # Markers only on short lines: a single point would be invisible without one.
        if len(points) <= 12 and not series.baseline:
            parts += [
                f'<circle class="{classes}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
            ]
    label = html.escape(f"{chart.title} over epochs: {describe(chart)}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def describe(chart: Chart) -> str:
    """First and last value per series as text, for readers who cannot see the chart."""
    return "; ".join(
        f"{series.label} {number(series.y[-1])}"
        if series.baseline
        else f"{series.label} from {number(series.y[0])} to {number(series.y[-1])}"
        for series in chart.series
    )


def thin(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Reduces a line to at most ``MAX_POINTS`` finite points, by the means of equal groups."""
    points = np.array([(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)])
    if len(points) <= MAX_POINTS:
        return [(float(a), float(b)) for a, b in points]
    groups = np.array_split(points, MAX_POINTS)
    return [(float(g[:, 0].mean()), float(g[:, 1].mean())) for g in groups]


def ticks(low: float, high: float) -> list[float]:
    """Equidistant round numbers that cover [low, high]; the step is 1, 2 or 5 times 10^n."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / INTERVALS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as short text: four significant digits; larger numbers have digit groups."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return f"{value:,.0f}" if abs(value) >= 1e4 else text
    return f"{value:.1e}"


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix as SVG: rows are true classes, columns predicted classes.

    The opacity of a cell is its fraction of the row. Empty cells are not drawn. The count is
    written in the cell for at most 20 classes, and always shown on hover.

    Args:
        counts: Number of images, int [C, C].
        names: Name per class.
    """
    size = len(counts)
    cell = 30 if size <= MAX_NUMBERED else max(4, 560 // size)
    longest = max((len(name) for name in names), default=1) if size <= MAX_NUMBERED else 0
    left = 34 + min(110, 7 * longest)
    side = cell * size
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [f'<rect class="field" x="{left}" y="24" width="{side}" height="{side}"/>']
    for row, column in zip(*np.nonzero(counts), strict=True):
        fraction = counts[row, column] / totals[row, 0]
        x, y, hit = left + column * cell, 24 + row * cell, "hit" if row == column else "miss"
        title = f"true {names[row]}, predicted {names[column]}: "
        title += f"{counts[row, column]} ({fraction:.0%})"
        parts.append(
            f'<g><rect class="{hit}" x="{x}" y="{y}" width="{cell}" height="{cell}" '
            f'fill-opacity="{0.12 + 0.88 * fraction:.2f}"/><title>{html.escape(title)}</title>'
        )
        if size <= MAX_NUMBERED:
            ink = "on" if fraction > 0.55 else "off"  # light text on a dark cell
            parts.append(
                f'<text class="cell {ink}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" '
                f'text-anchor="middle">{counts[row, column]}</text>'
            )
        parts.append("</g>")
    if size <= MAX_NUMBERED:
        for i, name in enumerate(names):
            short = html.escape(name if len(name) <= 14 else name[:13] + "…")
            middle = 24 + i * cell + cell / 2 + 4
            parts.append(f'<text class="tick" x="{left - 6}" y="{middle}" text-anchor="end">')
            parts.append(f"{short}</text>")
            x, y = left + i * cell + cell / 2, 24 + side + 12
            parts.append(f'<text class="tick" transform="translate({x} {y}) rotate(-45)" ')
            parts.append(f'text-anchor="end">{short}</text>')
    bottom = 24 + side + (10 if size > MAX_NUMBERED else 16 + min(90, 5 * longest))
    parts.append(f'<text class="label" x="{left + side / 2}" y="14" text-anchor="middle">')
    parts.append("predicted class</text>")
    parts.append(f'<text class="label" transform="translate(14 {24 + side / 2}) rotate(-90)" ')
    parts.append('text-anchor="middle">true class</text>')
    hits = np.trace(counts) / max(counts.sum(), 1)
    label = f"confusion matrix of {size} classes, {hits:.1%} on the diagonal"
    return (
        f'<svg viewBox="0 0 {left + side + 12} {bottom + 10}" role="img" aria-label="{label}" '
        f'style="max-width:{left + side + 12}px">{"".join(parts)}</svg>'
    )


def _at(axis: str, value: float) -> str:
    return f'{axis}1="{value:.1f}" {axis}2="{value:.1f}"'
