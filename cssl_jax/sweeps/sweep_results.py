"""Results of a sweep, as its files store them; reading them needs no Optuna."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.files import csv_text, write_json, write_text
from cssl_jax.report.figures.svg import number
from cssl_jax.report.table import NONE, Table

SETTINGS, TABLE, TABLE_CSV = "sweep.json", "trials.json", "trials.csv"
_STATES = ("complete", "pruned", "running", "failed")


@dataclasses.dataclass(frozen=True)
class Axis:
    """The range of one parameter of a search space.

    Attributes:
        name: Parameter name in the space's ``suggest_`` call.
        low: Lower end of a numeric range; 0 for a categorical parameter.
        high: Upper end of a numeric range; 0 for a categorical parameter.
        logarithmic: True if the parameter is sampled and plotted on a logarithmic scale.
        choices: Text of each choice of a categorical parameter; () for a numeric range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: Trial number, counted from 0 in the order of the starts.
        state: "complete", "pruned", "running" or "failed".
        params: Suggested value of each parameter.
        curve: Pairs (epoch, score in [0, 1] on the selection images), one per online evaluation.
        reported: Metrics in [0, 1] of a complete trial on the reporting images, which select
            neither checkpoints nor trials.
        run: Path of the run folder: relative to the sweep's folder, absolute if another folder of
            a shared study ran the trial, "" if there is none.
        message: Reason why the trial failed or was pruned; "" for other states.
    """

    number: int
    state: str
    params: dict[str, Any]
    curve: tuple[tuple[int, float], ...] = ()
    reported: dict[str, float] = dataclasses.field(default_factory=dict)
    run: str = ""
    message: str = ""

    @property
    def score(self) -> float:
        """Score of the best checkpoint on the selection images; -inf before any evaluation."""
        return max((score for _, score in self.curve), default=-math.inf)

    @property
    def epoch(self) -> int:
        """Epoch of the best checkpoint; 0 before the first evaluation."""
        return max(self.curve, key=lambda point: point[1])[0] if self.curve else 0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The state of a sweep, as stored in its folder.

    Attributes:
        path: Path of the sweep's folder.
        recipe: Recipe name given on the command line; "" if there was none.
        config: Base config as a nested dictionary.
        space: Source text of the search space.
        most: Requested total number of trials.
        metric: Title of the metric that selects trials.
        images: Number of selection and of reporting images; 0 before the first complete trial.
        settings: Seed, sampler, pruner and hashes.
        axes: Range of every parameter that some trial suggested.
        trials: Complete trials, best first; then pruned, running and failed trials.
        importance: Importance per parameter, see ``study.Study.importance``.
    """

    path: pathlib.Path
    recipe: str
    config: dict[str, Any]
    space: str
    most: int
    metric: str
    images: tuple[int, int]
    settings: dict[str, Any]
    axes: list[Axis]
    trials: list[Trial]
    importance: dict[str, float]

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest score on the selection images; None without any.

        Of equal scores the first trial wins. The reporting images have no influence.
        """
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None

    def count(self, state: str) -> int:
        """Number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def summary(self) -> list[str]:
        """Summary of the sweep, one sentence per item."""
        counts = ", ".join(f"{n} {s}" for s in _STATES if (n := self.count(s)))
        lines = [f"{len(self.trials)} of {self.most} trials: {counts or 'none started'}"]
        if self.best is None:
            return lines
        best, (selection, reporting) = self.best, self.images
        params = ", ".join(f"{k} {format_value(v)}" for k, v in best.params.items())
        lines.append(f"best: trial {best.number} ({params}), epoch {best.epoch}")
        lines.append(
            f"selected among {self.count('complete')} trials and their checkpoints by "
            f"{self.metric} on {selection:,} validation examples, {100 * best.score:.1f} %: a "
            "maximum, therefore biased upwards and not a result to quote"
        )
        if best.reported:
            metrics = ", ".join(f"{k} {100 * v:.1f} %" for k, v in best.reported.items())
            lines.append(
                f"result on the other {reporting:,} validation examples, which selected nothing: "
                f"{metrics}"
            )
        else:
            lines.append("no result: all validation examples were used for selection")
        return lines

    def table(self) -> Table:
        """All trials as a table, one row per trial in the order of ``trials``."""
        names = [axis.name for axis in self.axes]
        metrics = list(dict.fromkeys(name for trial in self.trials for name in trial.reported))
        head = ["trial", "state", f"selection {self.metric}", "epoch"]
        head += [f"reported {name}" for name in metrics] + names + ["run"]
        has_failures = any(trial.state == "failed" for trial in self.trials)
        rows = []
        for trial in self.trials:
            row = [str(trial.number), trial.state]
            row.append(f"{100 * trial.score:.1f} %" if trial.curve else NONE)
            row.append(str(trial.epoch) if trial.curve else NONE)
            row += [f"{100 * trial.reported[m]:.1f} %" if m in trial.reported else NONE
                    for m in metrics]  # fmt: skip
            row += [format_value(trial.params[n]) if n in trial.params else NONE for n in names]
            row.append(trial.run or NONE)
            row += [trial.message if trial.state == "failed" else ""] if has_failures else []
            rows.append(row)
        return Table([*head, "failure message"] if has_failures else head, rows)


def format_value(value: Any) -> str:
    """A parameter's value as short text; numbers have about four significant digits."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if numeric else str(value)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials by state (complete, pruned, running, failed), then by score, then by number."""
    return sorted(trials, key=lambda t: (_STATES.index(t.state), -t.score, t.number))


def is_sweep(folder: str | pathlib.Path) -> bool:
    """True if a folder holds a sweep."""
    return (pathlib.Path(folder).expanduser() / SETTINGS).is_file()


def write(sweep: Sweep) -> None:
    """Writes trials.json and trials.csv; both hold the same trials in the same order."""
    content = {
        "metric": sweep.metric,
        "images": sweep.images,
        "best": None if sweep.best is None else sweep.best.number,
        "importance": sweep.importance,
        "axes": [dataclasses.asdict(axis) for axis in sweep.axes],
        "trials": [
            {**dataclasses.asdict(t), "score": t.score if t.curve else None, "epoch": t.epoch}
            for t in sweep.trials
        ],
    }
    write_json(sweep.path / TABLE, content)
    names = [axis.name for axis in sweep.axes]
    metrics = list(dict.fromkeys(name for trial in sweep.trials for name in trial.reported))
    rows: list[list[Any]] = [
        ["trial", "state", "score", "epoch", *metrics, *names, "run", "message"]
    ]
    for t in sweep.trials:
        values = [t.score if t.curve else "", t.epoch if t.curve else ""]
        values += [t.reported.get(name, "") for name in metrics]
        values += [t.params.get(name, "") for name in names]
        rows.append([t.number, t.state, *values, t.run, t.message])
    write_text(sweep.path / TABLE_CSV, csv_text(rows))


def read(folder: str | pathlib.Path) -> Sweep:
    """Reads a sweep's folder. The sweep may still be running.

    Raises:
        UserError: The folder holds no sweep, or its files cannot be read.
    """
    path = pathlib.Path(folder).expanduser().absolute()
    if not is_sweep(path):
        raise UserError(f"{folder} is no sweep folder: it has no {SETTINGS}")
    try:
        about = json.loads((path / SETTINGS).read_text())
        table: dict[str, Any] = {}
        if (path / TABLE).is_file():
            table = json.loads((path / TABLE).read_text())
        axes = [Axis(**{**a, "choices": tuple(a["choices"])}) for a in table.get("axes", ())]
        # trials.json also has "score" and "epoch", which ``Trial`` derives from the curve.
        fields = [field.name for field in dataclasses.fields(Trial)]
        trials = [
            Trial(**{**{k: t[k] for k in fields}, "curve": tuple(map(tuple, t["curve"]))})
            for t in table.get("trials", ())
        ]
        selection, reporting = table.get("images", (0, 0))
        return Sweep(
            path=path,
            **{k: about[k] for k in ("recipe", "config", "space", "most", "settings")},
            metric=table.get("metric", about["metric"]),
            images=(int(selection), int(reporting)),
            axes=axes,
            trials=ranked(trials),
            importance=table.get("importance", {}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the sweep in {folder} cannot be read: {error!r}") from error
