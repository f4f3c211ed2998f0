"""Charts of a sweep: importance, parallel coordinates and curves, as inline SVG and as PNG."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

import PIL.Image

from cssl_jax.report.figures import plots, svg
from cssl_jax.report.figures.curves import Chart, Series
from cssl_jax.report.figures.svg import number
from cssl_jax.sweeps.sweep_results import Axis, Sweep, Trial, format_value

# Parallel coordinates, in pixels: margins, distance between two axes, total height.
LEFT, RIGHT, TOP, BOTTOM = 70, 70, 46, 34
STEP, HEIGHT = 130, 360
# Importance, in pixels: height of a bar's row, width of the name column, total width.
BAR, NAME, WIDTH = 24, 190, 560
# Line style per kind of trial, for SVG and PNG:
# kind -> (title, CSS classes, matplotlib's (line style, color, line width)).
KINDS: dict[str, tuple[str, str, tuple[Any, str, float]]] = {
    "best": ("best", "series best c1", ("-", plots.COLORS[1], 2.6)),
    "complete": ("complete", "series c0", ("-", plots.COLORS[0], 1.4)),
    "pruned": ("pruned", "series lower c5", (":", plots.COLORS[5], 1.4)),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A trial in parallel coordinates.

    Attributes:
        trial: Trial that the line shows.
        kind: Key of ``KINDS``, which sets the line's style.
        heights: Position on each axis, 0 at the lower end and 1 at the upper; None where the trial
            has no value for the axis.
        ink: Opacity in [0, 1]; a higher score is more opaque.
    """

    trial: Trial
    kind: str
    heights: list[float | None]
    ink: float


def lines(sweep: Sweep) -> tuple[list[Axis], list[Line]]:
    """Computes the axes and lines of parallel coordinates.

    Returns:
        The axes of all parameters and of the score, and a line for each complete or pruned trial
        that has a score. The best trial is last, so that it is drawn on top. Both lists are empty
        without such a trial.
    """
    scored = [trial for trial in sweep.trials if trial.curve and trial.state in KINDS]
    if not scored:
        return [], []
    scores = [100 * trial.score for trial in scored]
    steps = svg.ticks(min(scores), max(scores))
    axes = [*sweep.axes, Axis(f"{sweep.metric}, %", steps[0], steps[-1])]
    drawn = []
    for trial in sorted(scored, key=lambda t: (t is sweep.best, t.state == "complete", t.score)):
        heights = [
            height(axis, trial.params[axis.name]) if axis.name in trial.params else None
            for axis in sweep.axes
        ]
        heights.append(height(axes[-1], 100 * trial.score))
        ink = 0.25 + 0.65 * (scores.index(100 * trial.score) == 0 or len(scores) == 1)
        if max(scores) > min(scores):
            ink = 0.2 + 0.7 * (100 * trial.score - min(scores)) / (max(scores) - min(scores))
        kind = "best" if trial is sweep.best else trial.state
        drawn.append(Line(trial, kind if kind in KINDS else "pruned", heights, ink))
    return axes, drawn


def height(axis: Axis, value: object) -> float:
    """Position of a value on an axis: 0 at the lower end, 1 at the upper, 0.5 without a range."""
    if axis.choices:
        index = axis.choices.index(str(value)) if str(value) in axis.choices else 0
        return index / (len(axis.choices) - 1) if len(axis.choices) > 1 else 0.5
    low, high, position = axis.low, axis.high, float(value)  # type: ignore[arg-type]
    if axis.logarithmic:
        low, high, position = math.log(low), math.log(high), math.log(position)
    return (position - low) / (high - low) if high > low else 0.5


def axis_ticks(axis: Axis) -> list[tuple[float, str]]:
    """Pairs (height, text) of the labels beside an axis; heights are as in ``height``."""
    if axis.choices:
        return [(height(axis, choice), choice) for choice in axis.choices]
    if not axis.logarithmic:
        inside = [t for t in svg.ticks(axis.low, axis.high) if axis.low <= t <= axis.high]
        return [(height(axis, t), number(t)) for t in inside or (axis.low,)]
    first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    powers = [10.0**p for p in range(first, last + 1)]
    ends = [axis.low, axis.high]
    # A range end close to a power of ten has no label: the two labels would overlap.
    clear = [e for e in ends if all(abs(height(axis, e) - height(axis, p)) > 0.08 for p in powers)]
    return [(height(axis, value), number(value)) for value in sorted([*powers, *clear])]


def curves(sweep: Sweep) -> Chart | None:
    """Chart of the selection metric over epochs, one series per trial; None without evaluations."""
    _, drawn = lines(sweep)
    series = []
    for line in drawn:
        epochs, scores = zip(*line.trial.curve, strict=True)
        title, classes, _ = KINDS[line.kind]
        look, _, color = classes.rpartition(" c")
        label = f"trial {line.trial.number} ({title})"
        ys = [100 * score for score in scores]
        series.append(Series(label, int(color), list(epochs), ys, look=look))
    return Chart(f"Online {sweep.metric}", "%", series) if series else None


# --------------------------------------------------------------------------------------------- SVG


def parallel_svg(sweep: Sweep) -> str:
    """Parallel coordinates as SVG: a line per trial over the axes of parameters and score."""
    axes, drawn = lines(sweep)
    if not drawn:
        return ""
    width = LEFT + RIGHT + STEP * (len(axes) - 1)
    span = HEIGHT - TOP - BOTTOM
    parts = []
    for line in drawn:
        kind_title, classes, _ = KINDS[line.kind]
        segments = _segments([(LEFT + STEP * i, h) for i, h in enumerate(line.heights)])
        title = f"trial {line.trial.number} ({kind_title}), "
        title += f"{sweep.metric} {100 * line.trial.score:.1f} %"
        title += "".join(f", {name} {format_value(v)}" for name, v in line.trial.params.items())
        for points in segments:
            text = " ".join(f"{x:.1f},{TOP + (1 - h) * span:.1f}" for x, h in points)
            ink = "" if line.kind == "best" else f' stroke-opacity="{line.ink:.2f}"'
            parts.append(
                f'<polyline class="{classes}" points="{text}"{ink}>'
                f"<title>{html.escape(title)}</title></polyline>"
            )
    for i, axis in enumerate(axes):
        x = LEFT + STEP * i
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + span}"/>')
        level = TOP - 14 - (16 if i % 2 else 0)  # names alternate between two rows: they are long
        parts.append(f'<text x="{x}" y="{level}" text-anchor="middle">{html.escape(axis.name)}')
        parts.append("</text>")
        for h, text in axis_ticks(axis):
            y = TOP + (1 - h) * span
            parts.append(f'<line class="axis" x1="{x - 4}" x2="{x}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick halo" x="{x - 7}" y="{y + 4:.1f}" text-anchor="end">')
            parts.append(f"{html.escape(text)}</text>")
    label = f"parallel coordinates of {len(drawn)} trials over {len(axes) - 1} parameters"
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'style="min-width:{min(width, 720)}px;max-width:{width}px">{"".join(parts)}</svg>'
    )


def importance_svg(importance: dict[str, float]) -> str:
    """Parameter importance as SVG: a bar per parameter, in the order of ``importance``."""
    parts = []
    full_width = WIDTH - NAME - 60
    for i, (name, fraction) in enumerate(importance.items()):
        y = 6 + BAR * i
        length = fraction * full_width
        parts.append(f'<text x="{NAME - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}')
        parts.append(f'</text><rect class="hit" x="{NAME}" y="{y + 2}" height="{BAR - 8}" ')
        parts.append(f'width="{length:.1f}"/>')
        parts.append(f'<text class="tick" x="{NAME + length + 6:.1f}" y="{y + 14}">')
        parts.append(f"{fraction:.0%}</text>")
    text = ", ".join(f"{name} {fraction:.0%}" for name, fraction in importance.items())
    label = html.escape(f"importance of parameters: {text}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {12 + BAR * len(importance)}" role="img" aria-label="{label}" '
        f'style="max-width:{WIDTH}px">{"".join(parts)}</svg>'
    )


def _segments(
    points: Sequence[tuple[float, float | None]],
) -> list[list[tuple[float, float]]]:
    """Splits a line at its gaps (y is None). Returns the segments of at least two points."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            segments.append([])
        else:
            segments[-1].append((x, y))
    return [segment for segment in segments if len(segment) > 1]


# --------------------------------------------------------------------------------------------- PNG


def parallel_png(sweep: Sweep) -> PIL.Image.Image:
    """Parallel coordinates as PNG, see ``parallel_svg``; some trial must have a score."""
    axes, drawn = lines(sweep)
    figure = plots.new_figure(1.6 + 1.5 * (len(axes) - 1), 4.2)
    canvas = figure.add_subplot()
    for line in drawn:
        _, _, (style, color, width) = KINDS[line.kind]
        ink = 1.0 if line.kind == "best" else line.ink
        for points in _segments(list(enumerate(line.heights))):
            x, y = zip(*points, strict=True)
            canvas.plot(x, y, style, color=color, linewidth=width, alpha=ink)
    for i, axis in enumerate(axes):
        canvas.axvline(i, color="#59616b", linewidth=0.9)
        for h, text in axis_ticks(axis):
            canvas.annotate(
                plots.plain(text), (i, h), (-4, 0), textcoords="offset points", fontsize=7,
                ha="right", va="center", bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.6,
                                               "linewidth": 0},
            )  # fmt: skip
        lift = 12 + (12 if i % 2 else 0)
        canvas.annotate(
            plots.plain(axis.name), (i, 1), (0, lift), textcoords="offset points", fontsize=8,
            ha="center",
        )  # fmt: skip
    canvas.set(xlim=(-0.45, len(axes) - 0.8), ylim=(-0.03, 1.03))
    canvas.axis("off")
    _legend(canvas, drawn, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3)
    return plots.as_image(figure)


def importance_png(importance: dict[str, float]) -> PIL.Image.Image:
    """Parameter importance as PNG, see ``importance_svg``; at least one parameter."""
    figure = plots.new_figure(6.4, 1.1 + 0.34 * len(importance))
    axes = figure.add_subplot()
    names, fractions = [plots.plain(name) for name in importance], list(importance.values())
    bars = axes.barh(names, [100 * fraction for fraction in fractions], color=plots.COLORS[0])
    axes.bar_label(bars, [f"{fraction:.0%}" for fraction in fractions], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="importance, %", xlim=(0, 110 * max(fractions)))  # 110: room for the labels
    plots.tidy(axes)
    axes.grid(False, axis="y")
    return plots.as_image(figure)


def curves_png(sweep: Sweep) -> PIL.Image.Image:
    """Scores over epochs as PNG, see ``curves``; some trial must have a score."""
    _, drawn = lines(sweep)
    figure = plots.new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for line in drawn:
        _, _, (style, color, width) = KINDS[line.kind]
        epochs, scores = zip(*line.trial.curve, strict=True)
        ys = [100 * score for score in scores]
        axes.plot(epochs, ys, style, color=color, linewidth=width, marker="o", markersize=3)
    axes.set(xlabel="epoch", ylabel=f"{sweep.metric}, %")
    plots.tidy(axes)
    _legend(axes, drawn)
    return plots.as_image(figure)


def _legend(axes: object, drawn: Sequence[Line], **options: object) -> None:
    """Adds a legend with one entry per kind of trial."""
    from matplotlib.lines import Line2D

    kinds = [kind for kind in KINDS if any(line.kind == kind for line in drawn)]
    handles = [
        Line2D([], [], linestyle=KINDS[k][2][0], color=KINDS[k][2][1], linewidth=KINDS[k][2][2])
        for k in kinds
    ]
    axes.legend(handles, kinds, fontsize=8, frameon=False, **options)  # type: ignore[attr-defined]
