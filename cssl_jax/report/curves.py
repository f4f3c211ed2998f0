"""Which curves a run has: their titles, series and floors, for the page, the PNG and the text."""

import dataclasses
from collections.abc import Sequence

from cssl_jax.report.run_reader import Line, RunFolder

Points = tuple[list[float], list[float]]


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: What it is; with several runs the run's name.
        run: Which run, from 0; colours follow it.
        x: Epochs.
        y: Values.
        baseline: Whether it is a level to compare with, drawn dashed.
        look: How the page draws it: "series", "series upper" and "series lower" about it, "floor",
            or "floor dots".
    """

    label: str
    run: int
    x: list[float]
    y: list[float]
    baseline: bool = False
    look: str = "series"


@dataclasses.dataclass(frozen=True)
class Chart:
    """Series over epochs.

    Attributes:
        title: What is shown.
        unit: Of the values, for the axis.
        series: At least one.
        note: How to read it.
    """

    title: str
    unit: str
    series: list[Series]
    note: str = ""

    @property
    def from_zero(self) -> bool:
        """Whether 0 is on the axis: small changes of a large value are small then."""
        return self.title not in _CLOSE_UP

    @property
    def logarithmic(self) -> bool:
        """Whether the axis is; the values are positive then."""
        return self.title == _LOGARITHMIC


_LOGARITHMIC = "LARS trust ratios"
_CLOSE_UP = (
    *("Loss", "Online kNN top-1", "Online linear probe top-1", "View retrieval"),
    _LOGARITHMIC,
)
_LOOKS = {"max": "series upper", "min": "series lower"}
# (title, unit, factor, how to read it, names of figures with labels of their own)
_STEPS = (
    ("Loss", "nats", 1.0, "Chance level ln(2N - 1) is dashed.", {"loss": ""}),
    (
        "Contrastive accuracy",
        "%",
        100.0,
        "How often a picture's other view is the nearest of the batch.",
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
_ONLINE = (
    ("Online kNN top-1", "%", 100.0, "Untrained encoder dashed, raw pixels dotted.", "knn.top1"),
    ("Online linear probe top-1", "%", 100.0, "", "linear.top1"),
    ("View retrieval", "%", 100.0, "", "view_retrieval"),
    ("RankMe", "dimensions", 1.0, "A smooth rank of the features.", "features.rankme"),
    (
        "Alignment",
        "squared distance",
        1.0,
        "Of two views of a picture; 0 is best.",
        "features.alignment",
    ),
    (
        "Uniformity",
        "log",
        1.0,
        "0 is a point; lower is more spread.",
        "features.uniformity",
    ),
    (
        "Deviation",
        "share of a sphere",
        1.0,
        "Root of the summed variance of unit-length features; 0 is a point.",
        "features.std",
    ),
    (
        "Neighbour purity",
        "%",
        100.0,
        "Share of the 5 nearest neighbours with the same label.",
        "features.neighbour_purity",
    ),
)
_TIMINGS = (
    ("Throughput", "images/s", 1.0, "", "images_per_second"),
    ("Waiting for input", "% of the time", 100.0, "", "input_wait"),
)


def charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """All charts that some run has figures for."""
    found = []
    for title, unit, factor, note, names in _STEPS:
        series: list[Series] = []
        for number, run in enumerate(runs):
            for name, suffix in names.items():
                label = f"{run.name} {suffix}".strip() if len(runs) > 1 else suffix or title.lower()
                look = _LOOKS.get(suffix, "series")
                series += _series(run.steps, name, label, number, factor, look)
            if title == "Loss":
                series += _chance(run, number, runs)
        found.append(Chart(title, unit, series, note))
    for title, unit, factor, note, name in _ONLINE:
        series = []
        for number, run in enumerate(runs):
            label = run.name if len(runs) > 1 else title.removeprefix("Online ")
            series += _series(run.online, name, label, number, factor)
            series += _baselines(run, name, number, factor, runs)
        found.append(Chart(title, unit, series, note))
    for title, unit, factor, note, name in _TIMINGS:
        series = []
        for number, run in enumerate(runs):
            label = run.name if len(runs) > 1 else title.lower()
            lines = [
                {**line, "epoch": line["step"] / (run.steps_per_epoch or 1)}
                for line in run.timings[1:]  # the first compiles
            ]
            series += _series(lines, name, label, number, factor)
        found.append(Chart(title, unit, series, note))
    return [chart for chart in found if any(not one.baseline for one in chart.series)]


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
    return [Series(label, number, [lines[0]["epoch"], lines[-1]["epoch"]], levels, True, "floor")]


def _baselines(
    run: RunFolder, name: str, number: int, factor: float, runs: Sequence[RunFolder]
) -> list[Series]:
    """Levels of the untrained encoder and of raw pixels, once the run has its results."""
    found, lines = [], [line for line in run.online if name in line]
    for row, title in (("random_init", "untrained"), ("pixels", "pixels")):
        value = run.results.get(row, {})
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, int | float) and lines:
            label = f"{run.name} {title}" if len(runs) > 1 else title
            span = [0.0, lines[-1]["epoch"]]
            look = "floor" if row == "random_init" else "floor dots"
            found.append(Series(label, number, span, [factor * value] * 2, True, look))
    return found
