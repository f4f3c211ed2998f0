"""A sweep's importance, parallel coordinates and curves, as inline SVG and by matplotlib."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

import PIL.Image

from cssl_jax.report import plots, svg
from cssl_jax.report.curves import Chart, Series
from cssl_jax.report.svg import number
from cssl_jax.sweeps.results import Axis, Sweep, Trial, shown

LEFT, RIGHT, TOP, BOTTOM = 70, 70, 46, 34
STEP, HEIGHT = 130, 360  # pixels between two axes, of the whole
BAR, NAME, WIDTH = 24, 190, 560  # pixels: a bar's row, room for its name, of the whole
# What the two ways to draw have in common: kind -> (in words, CSS classes, matplotlib's style).
KINDS: dict[str, tuple[str, str, tuple[Any, str, float]]] = {
    "best": ("best", "series best c1", ("-", plots.COLORS[1], 2.6)),
    "complete": ("complete", "series c0", ("-", plots.COLORS[0], 1.4)),
    "pruned": ("pruned", "series lower c5", (":", plots.COLORS[5], 1.4)),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A trial in parallel coordinates.

    Attributes:
        trial: It.
        kind: Of ``KINDS``.
        heights: Along each axis in [0, 1] from its lower end; None where it has no value.
        ink: In [0, 1], by score.
    """

    trial: Trial
    kind: str
    heights: list[float | None]
    ink: float


def lines(sweep: Sweep) -> tuple[list[Axis], list[Line]]:
    """Axes of the space and of the score, and the trials that have one, the best last."""
    judged = [trial for trial in sweep.trials if trial.curve and trial.state in KINDS]
    if not judged:
        return [], []
    scores = [100 * trial.score for trial in judged]
    steps = svg.ticks(min(scores), max(scores))
    axes = [*sweep.axes, Axis(f"{sweep.metric}, %", steps[0], steps[-1])]
    found = []
    for trial in sorted(judged, key=lambda t: (t is sweep.best, t.state == "complete", t.score)):
        heights = [
            height(axis, trial.params[axis.name]) if axis.name in trial.params else None
            for axis in sweep.axes
        ]
        heights.append(height(axes[-1], 100 * trial.score))
        ink = 0.25 + 0.65 * (scores.index(100 * trial.score) == 0 or len(scores) == 1)
        if max(scores) > min(scores):
            ink = 0.2 + 0.7 * (100 * trial.score - min(scores)) / (max(scores) - min(scores))
        kind = "best" if trial is sweep.best else trial.state
        found.append(Line(trial, kind if kind in KINDS else "pruned", heights, ink))
    return axes, found


def height(axis: Axis, value: object) -> float:
    """Place of a value along an axis, 0 at its lower end and 1 at its upper."""
    if axis.choices:
        place = axis.choices.index(str(value)) if str(value) in axis.choices else 0
        return place / (len(axis.choices) - 1) if len(axis.choices) > 1 else 0.5
    low, high, at = axis.low, axis.high, float(value)  # type: ignore[arg-type]
    if axis.logarithmic:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.5


def axis_ticks(axis: Axis) -> list[tuple[float, str]]:
    """(height, text) of what is written beside an axis."""
    if axis.choices:
        return [(height(axis, choice), choice) for choice in axis.choices]
    if not axis.logarithmic:
        inside = [t for t in svg.ticks(axis.low, axis.high) if axis.low <= t <= axis.high]
        return [(height(axis, t), number(t)) for t in inside or (axis.low,)]
    first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    powers = [10.0**p for p in range(first, last + 1)]
    ends = [axis.low, axis.high]
    near = [e for e in ends if all(abs(height(axis, e) - height(axis, p)) > 0.08 for p in powers)]
    return [(height(axis, value), number(value)) for value in sorted([*powers, *near])]


def curves(sweep: Sweep) -> Chart | None:
    """The selecting figure over epochs of all trials; None before the first evaluation."""
    _, drawn = lines(sweep)
    series = []
    for line in drawn:
        epochs, scores = zip(*line.trial.curve, strict=True)
        words, look, _ = KINDS[line.kind]
        kind, _, color = look.rpartition(" c")
        label = f"trial {line.trial.number} ({words})"
        ys = [100 * score for score in scores]
        series.append(Series(label, int(color), list(epochs), ys, look=kind))
    return Chart(f"Online {sweep.metric}", "%", series) if series else None


# --------------------------------------------------------------------------------------------- SVG


def parallel_svg(sweep: Sweep) -> str:
    """Every trial as a line over the axes of its parameters and its score."""
    axes, drawn = lines(sweep)
    if not drawn:
        return ""
    width = LEFT + RIGHT + STEP * (len(axes) - 1)
    span = HEIGHT - TOP - BOTTOM
    parts = []
    for line in drawn:
        words, look, _ = KINDS[line.kind]
        runs = _unbroken([(LEFT + STEP * i, h) for i, h in enumerate(line.heights)])
        title = (
            f"trial {line.trial.number} ({words}), {sweep.metric} {100 * line.trial.score:.1f} %"
        )
        title += "".join(f", {name} {shown(v)}" for name, v in line.trial.params.items())
        for points in runs:
            text = " ".join(f"{x:.1f},{TOP + (1 - h) * span:.1f}" for x, h in points)
            ink = "" if line.kind == "best" else f' stroke-opacity="{line.ink:.2f}"'
            parts.append(
                f'<polyline class="{look}" points="{text}"{ink}>'
                f"<title>{html.escape(title)}</title></polyline>"
            )
    for i, axis in enumerate(axes):
        x = LEFT + STEP * i
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + span}"/>')
        level = TOP - 14 - (16 if i % 2 else 0)  # two rows: names are long
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


def importance_svg(shares: dict[str, float]) -> str:
    """A bar for each parameter, the largest first."""
    parts = []
    room = WIDTH - NAME - 60
    for i, (name, share) in enumerate(shares.items()):
        y = 6 + BAR * i
        parts.append(f'<text x="{NAME - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}')
        parts.append(f'</text><rect class="hit" x="{NAME}" y="{y + 2}" height="{BAR - 8}" ')
        parts.append(f'width="{share * room:.1f}"/>')
        parts.append(f'<text class="tick" x="{NAME + share * room + 6:.1f}" y="{y + 14}">')
        parts.append(f"{share:.0%}</text>")
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    label = html.escape(f"importance of parameters: {text}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {12 + BAR * len(shares)}" role="img" aria-label="{label}" '
        f'style="max-width:{WIDTH}px">{"".join(parts)}</svg>'
    )


def _unbroken(
    points: Sequence[tuple[float, float | None]],
) -> list[list[tuple[float, float]]]:
    """Stretches of two points or more without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if len(run) > 1]


# --------------------------------------------------------------------------------------------- PNG


def parallel_png(sweep: Sweep) -> PIL.Image.Image:
    """As ``parallel_svg``; there must be a trial with a score."""
    axes, drawn = lines(sweep)
    figure = plots.new_figure(1.6 + 1.5 * (len(axes) - 1), 4.2)
    canvas = figure.add_subplot()
    for line in drawn:
        _, _, (style, color, width) = KINDS[line.kind]
        ink = 1.0 if line.kind == "best" else line.ink
        for points in _unbroken(list(enumerate(line.heights))):
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
    _key(canvas, drawn, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3)
    return plots.as_image(figure)


def importance_png(shares: dict[str, float]) -> PIL.Image.Image:
    """As ``importance_svg``."""
    figure = plots.new_figure(6.4, 1.1 + 0.34 * len(shares))
    axes = figure.add_subplot()
    names = [plots.plain(name) for name in shares]
    bars = axes.barh(names, [100 * share for share in shares.values()], color=plots.COLORS[0])
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="importance, %", xlim=(0, 110 * max(shares.values())))
    plots.tidy(axes)
    axes.grid(False, axis="y")
    return plots.as_image(figure)


def curves_png(sweep: Sweep) -> PIL.Image.Image:
    """As ``curves``; there must be a trial with a score."""
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
    _key(axes, drawn)
    return plots.as_image(figure)


def _key(axes: object, drawn: Sequence[Line], **options: object) -> None:
    """One entry a kind."""
    from matplotlib.lines import Line2D

    there = [kind for kind in KINDS if any(line.kind == kind for line in drawn)]
    handles = [
        Line2D([], [], linestyle=KINDS[k][2][0], color=KINDS[k][2][1], linewidth=KINDS[k][2][2])
        for k in there
    ]
    axes.legend(handles, there, fontsize=8, frameon=False, **options)  # type: ignore[attr-defined]
