"""Charts of runs over epochs: titles, series and baselines, for the page, PNG and Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cssl_jax.evaluate.results import UNTRAINED
from cssl_jax.report.run_reader import Line, RunFolder


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: Text in the legend; for several runs it contains the run's name.
        run: Index of the run, from 0; it sets the colour.
        x: Epoch per point.
        y: Value per point, in the chart's unit.
        baseline: True for a constant level to compare with, drawn dashed or dotted.
        look: CSS classes of the line: "series"; "series upper" and "series lower" for the maximum
            and the minimum around it; "baseline" or "baseline dots" for a constant level.
    """

    label: str
    run: int
    x: list[float]
    y: list[float]
    baseline: bool = False
    look: str = "series"


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with series over epochs.

    Attributes:
        title: Name of the metric.
        unit: Unit of the values, for the axis; "" for none.
        series: Lines of the chart, at least one.
        note: Explanation below the chart; "" for none.
    """

    title: str
    unit: str
    series: list[Series]
    note: str = ""

    @property
    def from_zero(self) -> bool:
        """True if the vertical axis includes 0, so that small relative changes look small."""
        return self.title not in _CLOSE_UP

    @property
    def logarithmic(self) -> bool:
        """True if the vertical axis is logarithmic; such a chart shows positive values only."""
        return self.title == _LOGARITHMIC


_LOGARITHMIC = "LARS trust ratios"
_CLOSE_UP = (
    *("Loss", "Online kNN top-1", "Online linear probe top-1", "View retrieval"),
    _LOGARITHMIC,
)
_LOOKS = {"max": "series upper", "min": "series lower"}
# Charts of logged steps: (title, unit, factor, note, metric name -> suffix of its label).
_STEPS = (
    ("Loss", "nats", 1.0, "Chance level dashed.", {"loss": ""}),
    (
        "Contrastive accuracy",
        "%",
        100.0,
        "Fraction of views whose nearest view in the batch is the other view of the same example.",
        {"contrastive_accuracy": ""},
    ),
    ("Learning rate", "", 1.0, "", {"learning_rate": ""}),
    ("Gradient norm", "", 1.0, "", {"gradient_norm": ""}),
    (
        _LOGARITHMIC,
        "",
        1.0,
        "Largest, median and smallest over the adapted tensors.",
        {"trust_ratio_max": "max", "trust_ratio_median": "median", "trust_ratio_min": "min"},
    ),
)
# Charts of online evaluations: (title, unit, factor, note, metric name).
_ONLINE = (
    (
        "Online kNN top-1",
        "%",
        100.0,
        "Untrained encoder dashed, other baselines dotted.",
        "knn.top1",
    ),
    ("Online linear probe top-1", "%", 100.0, "", "linear.top1"),
    ("View retrieval", "%", 100.0, "", "view_retrieval"),
    ("RankMe", "dimensions", 1.0, "Effective rank of the features.", "features.rankme"),
    (
        "Alignment",
        "squared distance",
        1.0,
        "Mean over pairs of views of the same example; 0 is best.",
        "features.alignment",
    ),
    (
        "Uniformity",
        "log",
        1.0,
        "0: all features are identical; lower values: more uniform on the sphere.",
        "features.uniformity",
    ),
    (
        "Deviation",
        "fraction of a sphere",
        1.0,
        "Root of the summed variance of unit-norm features; 0: all features are identical.",
        "features.std",
    ),
    (
        "Neighbour purity",
        "%",
        100.0,
        "Fraction of the 5 nearest neighbours with the same label.",
        "features.neighbour_purity",
    ),
)
# Charts of timings: (title, unit, factor, note, metric name).
_TIMINGS = (
    ("Throughput", "examples/s", 1.0, "", "images_per_second"),
    ("Waiting for input", "% of the time", 100.0, "", "input_wait"),
)


def charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Builds all charts for which at least one run has logged values."""
    candidates = []
    for title, unit, factor, note, names in _STEPS:
        series: list[Series] = []
        for number, run in enumerate(runs):
            for name, suffix in names.items():
                label = f"{run.name} {suffix}".strip() if len(runs) > 1 else suffix or title.lower()
                look = _LOOKS.get(suffix, "series")
                series += _series(run.steps, name, label, number, factor, look)
            if title == "Loss":
                series += _chance(run, number, runs)
        candidates.append(Chart(title, unit, series, note))
    for title, unit, factor, note, name in _ONLINE:
        series = []
        for number, run in enumerate(runs):
            label = run.name if len(runs) > 1 else title.removeprefix("Online ")
            series += _series(run.online, name, label, number, factor)
            series += _baselines(run, name, number, factor, runs)
        candidates.append(Chart(title, unit, series, note))
    for title, unit, factor, note, name in _TIMINGS:
        series = []
        for number, run in enumerate(runs):
            label = run.name if len(runs) > 1 else title.lower()
            lines = [
                {**line, "epoch": line["step"] / (run.steps_per_epoch or 1)}
                for line in run.timings[1:]  # the first line includes compilation
            ]
            series += _series(lines, name, label, number, factor)
        candidates.append(Chart(title, unit, series, note))
    # A chart that has baselines only would have no values of the run to compare with them.
    return [chart for chart in candidates if any(not series.baseline for series in chart.series)]


def _series(
    lines: list[Line], name: str, label: str, run: int, factor: float, look: str = "series"
) -> list[Series]:
    points = [(line["epoch"], factor * line[name]) for line in lines if line.get(name) is not None]
    if not points:
        return []
    x, y = map(list, zip(*points, strict=True))
    return [Series(label, run, x, y, look=look)]


def _chance(run: RunFolder, number: int, runs: Sequence[RunFolder]) -> list[Series]:
    lines = [line for line in run.steps if "chance_level" in line]
    if not lines:
        return []
    label = f"{run.name} chance" if len(runs) > 1 else "chance level"
    levels = [lines[i]["chance_level"] for i in (0, -1)]
    return [
        Series(label, number, [lines[0]["epoch"], lines[-1]["epoch"]], levels, True, "baseline")
    ]


def _baselines(
    run: RunFolder, name: str, number: int, factor: float, runs: Sequence[RunFolder]
) -> list[Series]:
    """Levels of the baselines; empty until the run has its results."""
    series, lines = [], [line for line in run.online if name in line]
    titles = run.results.labels if run.results else {}
    for key, scores in (run.results.baselines if run.results else {}).items():
        title = "untrained" if key == UNTRAINED else titles.get(key, key)
        value: Any = scores
        for subkey in name.split("."):  # the name of an online metric is a path in the results
            value = value.get(subkey) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and lines:
            label = f"{run.name} {title}" if len(runs) > 1 else title
            span = [0.0, lines[-1]["epoch"]]
            look = "baseline" if key == UNTRAINED else "baseline dots"
            series.append(Series(label, number, span, [factor * value] * 2, True, look))
    return series
