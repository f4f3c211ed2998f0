"""Charts and matrices as inline SVG: colours by CSS class, so that they follow the page's theme."""

import html
import math
from collections.abc import Sequence

import numpy as np

from cssl_jax.report.curves import Chart

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
INTERVALS = 5  # between ticks, about
MOST_POINTS = 400  # of a line: more are averaged in groups
MOST_NUMBERED = 20  # classes whose counts are written into the cells


def line_chart(chart: Chart) -> str:
    """A chart with labelled axes; every series is a ``polyline`` of class ``c0``, ``c1``, ..."""
    xs = [x for one in chart.series for x in one.x]
    drawn = [(one, thinned(one.x, one.y)) for one in chart.series]
    if chart.logarithmic:
        drawn = [(o, [(x, math.log10(y)) for x, y in points if y > 0]) for o, points in drawn]
    ys = [y for _, points in drawn for _, y in points]
    if not ys:
        return ""
    ys += [0.0] if chart.from_zero else []
    x_ticks, y_ticks = ticks(min([0.0, *xs]), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min([0.0, *xs]), max(max(xs), 1e-9)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / ((y_high - y_low) or 1.0) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = []
    for y in y_ticks:
        _, level = place(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_at("y", level)}/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">')
        parts.append(f"{number(10**y if chart.logarithmic else y)}</text>")
    for x in x_ticks:
        across, _ = place(x, y_low)
        if across > WIDTH - RIGHT + 1:
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
    for one, values in drawn:
        points = [place(x, y) for x, y in values]
        kind = f"{one.look} c{one.run % 8}"
        title = f"<title>{html.escape(one.label)}</title>"
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{kind}" points="{text}">')
        parts.append(f"{title}</polyline>")
        if len(points) <= 12 and not one.baseline:
            parts += [
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
            ]
    label = html.escape(f"{chart.title} over epochs: {described(chart)}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def described(chart: Chart) -> str:
    """The chart's ends in words, for who cannot see it."""
    return "; ".join(
        f"{one.label} {number(one.y[-1])}"
        if one.baseline
        else f"{one.label} from {number(one.y[0])} to {number(one.y[-1])}"
        for one in chart.series
    )


def thinned(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Finite points, averaged in groups where there are many."""
    points = np.array([(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)])
    if len(points) <= MOST_POINTS:
        return [(float(a), float(b)) for a, b in points]
    groups = np.array_split(points, MOST_POINTS)
    return [(float(g[:, 0].mean()), float(g[:, 1].mean())) for g in groups]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``: steps of 1, 2 or 5 times 10^n."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / INTERVALS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """Few digits."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return f"{value:,.0f}" if abs(value) >= 1e4 else text
    return f"{value:.1e}"


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """Rows true, columns predicted; a cell's ink is its share of the row. Only cells with counts.

    Counts are written in up to 20 classes; beyond that, hovering tells.
    """
    size = len(counts)
    cell = 30 if size <= MOST_NUMBERED else max(4, 560 // size)
    longest = max((len(name) for name in names), default=1) if size <= MOST_NUMBERED else 0
    left = 34 + min(110, 7 * longest)
    side = cell * size
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [f'<rect class="field" x="{left}" y="24" width="{side}" height="{side}"/>']
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = counts[row, column] / totals[row, 0]
        x, y, hit = left + column * cell, 24 + row * cell, "hit" if row == column else "miss"
        title = f"true {names[row]}, predicted {names[column]}: {counts[row, column]} ({share:.0%})"
        parts.append(
            f'<g><rect class="{hit}" x="{x}" y="{y}" width="{cell}" height="{cell}" '
            f'fill-opacity="{0.12 + 0.88 * share:.2f}"/><title>{html.escape(title)}</title>'
        )
        if size <= MOST_NUMBERED:
            ink = "on" if share > 0.55 else "off"
            parts.append(
                f'<text class="cell {ink}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" '
                f'text-anchor="middle">{counts[row, column]}</text>'
            )
        parts.append("</g>")
    if size <= MOST_NUMBERED:
        for i, name in enumerate(names):
            short = html.escape(name if len(name) <= 14 else name[:13] + "…")
            middle = 24 + i * cell + cell / 2 + 4
            parts.append(f'<text class="tick" x="{left - 6}" y="{middle}" text-anchor="end">')
            parts.append(f"{short}</text>")
            x, y = left + i * cell + cell / 2, 24 + side + 12
            parts.append(f'<text class="tick" transform="translate({x} {y}) rotate(-45)" ')
            parts.append(f'text-anchor="end">{short}</text>')
    bottom = 24 + side + (10 if size > MOST_NUMBERED else 16 + min(90, 5 * longest))
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
