"""A sweep on file: what was tried and what came of it, read without Optuna."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.files import csv_text, write_json, write_text
from cssl_jax.report.svg import number
from cssl_jax.report.tables import NONE, Table

SETTINGS, TABLE, TABLE_CSV = "sweep.json", "trials.json", "trials.csv"
_STATES = ("complete", "pruned", "running", "failed")


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one parameter of a space may be.

    Attributes:
        name: As it was suggested.
        low: Of a number.
        high: Of a number.
        logarithmic: Whether it is drawn so.
        choices: In words; () of a number.
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
        number: From 0, in the order of the sweep.
        state: "complete", "pruned", "running" or "failed".
        params: What was suggested.
        curve: (epoch, share in [0, 1] on the images that select) of every online evaluation.
        reported: Shares on the images that chose neither checkpoint nor trial; of a complete trial.
        run: Its folder: inside the sweep's, or absolute where another folder shares the study.
        message: Why it failed or was pruned.
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
        """Of its best checkpoint, on the images that select; -inf before the first evaluation."""
        return max((score for _, score in self.curve), default=-math.inf)

    @property
    def epoch(self) -> int:
        """Of its best checkpoint; 0 before the first evaluation."""
        return max(self.curve, key=lambda point: point[1])[0] if self.curve else 0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells.

    Attributes:
        path: Of the folder.
        recipe: As it was named on the command line, or "".
        config: Base config, plain.
        space: Source of the space.
        most: Trials it was to have.
        metric: What selects, in words.
        images: (that select, that report); 0 before the first complete trial.
        settings: Seed, sampler, pruner, hashes.
        axes: Of the space, as far as it was suggested.
        trials: The best first; then pruned, running and failed ones.
        importance: Of parameters, see ``study.Study.importance``.
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
        """The complete trial with the highest score on the images that select; the first of equals.

        What a trial reports never chooses it.
        """
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None

    def count(self, state: str) -> int:
        """Trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def words(self) -> list[str]:
        """What came of it, in sentences."""
        counts = ", ".join(f"{n} {s}" for s in _STATES if (n := self.count(s)))
        lines = [f"{len(self.trials)} of {self.most} trials: {counts or 'none begun'}"]
        if self.best is None:
            return lines
        best, (chose, report) = self.best, self.images
        params = ", ".join(f"{k} {shown(v)}" for k, v in best.params.items())
        lines.append(f"best: trial {best.number} ({params}), epoch {best.epoch}")
        lines.append(
            f"chosen among {self.count('complete')} trials and their checkpoints by {self.metric} "
            f"on {chose:,} validation images, {100 * best.score:.1f} %: a maximum, so too high to "
            "quote"
        )
        if best.reported:
            figures = ", ".join(f"{k} {100 * v:.1f} %" for k, v in best.reported.items())
            lines.append(
                f"reported on the other {report:,} validation images, which chose nothing: "
                f"{figures}"
            )
        else:
            lines.append("no validation image is left to report on that did not choose")
        return lines

    def table(self) -> Table:
        """All trials, sorted."""
        names = [axis.name for axis in self.axes]
        figures = list(dict.fromkeys(name for trial in self.trials for name in trial.reported))
        head = ["trial", "state", f"selection {self.metric}", "epoch"]
        head += [f"reported {name}" for name in figures] + names + ["run"]
        words = any(trial.state == "failed" for trial in self.trials)
        rows = []
        for trial in self.trials:
            row = [str(trial.number), trial.state]
            row.append(f"{100 * trial.score:.1f} %" if trial.curve else NONE)
            row.append(str(trial.epoch) if trial.curve else NONE)
            row += [f"{100 * trial.reported[f]:.1f} %" if f in trial.reported else NONE
                    for f in figures]  # fmt: skip
            row += [shown(trial.params[n]) if n in trial.params else NONE for n in names]
            row.append(trial.run or NONE)
            row += [trial.message if trial.state == "failed" else ""] if words else []
            rows.append(row)
        return Table([*head, "why it failed"] if words else head, rows)


def shown(value: Any) -> str:
    """A parameter's value in few letters."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if plain else str(value)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials by score, the first of equals first; then pruned, running and failed ones."""
    return sorted(trials, key=lambda t: (_STATES.index(t.state), -t.score, t.number))


def is_sweep(folder: str | pathlib.Path) -> bool:
    """Whether a folder holds a sweep."""
    return (pathlib.Path(folder).expanduser() / SETTINGS).is_file()


def write(sweep: Sweep) -> None:
    """Writes trials.json and trials.csv, the same trials in the same order."""
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
    figures = list(dict.fromkeys(name for trial in sweep.trials for name in trial.reported))
    rows: list[list[Any]] = [
        ["trial", "state", "score", "epoch", *figures, *names, "run", "message"]
    ]
    for t in sweep.trials:
        values = [t.score if t.curve else "", t.epoch if t.curve else ""]
        values += [t.reported.get(name, "") for name in figures]
        values += [t.params.get(name, "") for name in names]
        rows.append([t.number, t.state, *values, t.run, t.message])
    write_text(sweep.path / TABLE_CSV, csv_text(rows))


def read(folder: str | pathlib.Path) -> Sweep:
    """Reads a sweep's folder; it may still be running.

    Raises:
        UserError: It is none, or cannot be read.
    """
    path = pathlib.Path(folder).expanduser().absolute()
    if not is_sweep(path):
        raise UserError(f"{folder} is no sweep: it has no {SETTINGS}")
    try:
        about = json.loads((path / SETTINGS).read_text())
        table: dict[str, Any] = {}
        if (path / TABLE).is_file():
            table = json.loads((path / TABLE).read_text())
        axes = [Axis(**{**a, "choices": tuple(a["choices"])}) for a in table.get("axes", ())]
        keep = [field.name for field in dataclasses.fields(Trial)]
        trials = [
            Trial(**{**{k: t[k] for k in keep}, "curve": tuple(map(tuple, t["curve"]))})
            for t in table.get("trials", ())
        ]
        chose, report = table.get("images", (0, 0))
        return Sweep(
            path=path,
            **{k: about[k] for k in ("recipe", "config", "space", "most", "settings")},
            metric=table.get("metric", about["metric"]),
            images=(int(chose), int(report)),
            axes=axes,
            trials=ranked(trials),
            importance=table.get("importance", {}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the sweep {folder} cannot be read: {error!r}") from error
