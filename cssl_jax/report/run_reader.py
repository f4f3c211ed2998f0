"""What a run folder tells without its data and its encoder: config, figures, verdicts."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.evaluate import verdicts
from cssl_jax.evaluate.verdicts import Facts, Verdict
from cssl_jax.files import existing_run
from cssl_jax.methods.registry import method_entry

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run, finished or still training.

    Attributes:
        path: Of the folder.
        config: Of the run.
        steps: Lines of ``metrics.jsonl`` with a loss.
        online: Lines of ``metrics.jsonl`` of the online evaluations.
        timings: Lines of ``timings.jsonl``.
        results: Content of ``results.json``; empty while the run trains.
    """

    path: pathlib.Path
    config: Config
    steps: list[Line]
    online: list[Line]
    timings: list[Line]
    results: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def steps_per_epoch(self) -> int:
        """0 before anything was logged."""
        lines = self.steps or self.online
        return round(lines[-1]["step"] / lines[-1]["epoch"]) if lines else 0

    @property
    def total_steps(self) -> int:
        """Of the whole run; 0 before anything was logged."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def last_step(self) -> int:
        """That was logged; 0 before."""
        return max((lines[-1]["step"] for lines in (self.steps, self.online) if lines), default=0)

    @property
    def finished(self) -> bool:
        """Whether it has its results."""
        return bool(self.results)

    @property
    def state(self) -> str:
        """How far it has come, in words."""
        if self.finished:
            return f"finished, {self.results['step']} steps"
        if not self.last_step:
            return "no step logged yet"
        return f"step {self.last_step} of {self.total_steps}, not finished"

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """What holds now, the worst first; one "good" one where nothing is wrong."""
        if not self.last_step:
            return []
        if not method_entry(self.config.method.name).contrastive:
            return verdicts.of_timings(self.timings)
        known = verdicts.facts(self.config, self.steps_per_epoch)
        found = verdicts.of_steps(self.steps, known)
        judged = [line for line in self.online if "features.rankme" in line]
        if judged:
            found += verdicts.of_features(judged[-1], known)
        found += verdicts.of_online(self.online)
        found += verdicts.of_results(self.results) + verdicts.of_timings(self.timings)
        if not any(verdict.grade != "good" for verdict in found):
            found.insert(0, self._healthy(known, bool(judged)))
        return sorted(found, key=lambda verdict: ("bad", "warning", "good").index(verdict.grade))

    def _healthy(self, known: Facts, judged: bool) -> Verdict:
        if self.last_step < known.judged_from:
            detail = f"losses are judged from step {known.judged_from} on"
            return Verdict("healthy", "good", "too early to tell", detail)
        detail = "the loss is off chance level"
        if judged:
            detail += ", the features have not collapsed"
        return Verdict("healthy", "good", "nothing wrong found", detail)


def open_run(run: str | pathlib.Path) -> RunFolder:
    """Reads a run folder; it may still be training.

    Raises:
        UserError: It is no run folder, or its config is of another version.
    """
    path = existing_run(run)
    metrics = [line for line in _lines(path / "metrics.jsonl") if "epoch" in line]
    return RunFolder(
        path=path,
        config=recipes.read_json(path / "config.json"),
        steps=[line for line in metrics if "loss" in line],
        online=[line for line in metrics if "loss" not in line],
        timings=_lines(path / "timings.jsonl"),
        results=_results(path / "results.json"),
    )


def _lines(path: pathlib.Path) -> list[Line]:
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # being written at this moment, or cut short by a kill
            continue
        if isinstance(line, dict) and _is_sound(line):
            found.append(line)
    return found


def _is_sound(line: Line) -> bool:
    """Whether a line is one of figures, at a step and an epoch that can be."""
    figures = all(value is None or isinstance(value, int | float) for value in line.values())
    places = (line.get("step"), line.get("epoch", 1.0))
    return figures and all(place is not None and 0 < place < 2**53 for place in places)


def _results(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not isinstance(found["step"], int):
            raise ValueError("it holds no results")
    except (ValueError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}; delete it and run the same command again"
        ) from error
    return found
