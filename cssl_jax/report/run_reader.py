"""Reads a run folder without its data and encoder: config, logged metrics, results, verdicts."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.evaluate import verdicts
from cssl_jax.evaluate.results import Results
from cssl_jax.evaluate.verdicts import Facts, Verdict
from cssl_jax.files import existing_run
from cssl_jax.methods.registry import method_entry

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The logs and results of a run that is finished or still training.

    Attributes:
        path: Path of the run folder.
        config: Config of the run.
        steps: Lines of ``metrics.jsonl`` that have a loss, one per logged step.
        online: Lines of ``metrics.jsonl`` without a loss, one per online evaluation.
        timings: Lines of ``timings.jsonl``.
        results: Content of ``results.json``; None until the run is finished.
    """

    path: pathlib.Path
    config: Config
    steps: list[Line]
    online: list[Line]
    timings: list[Line]
    results: Results | None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.path.name

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch; 0 if nothing is logged yet."""
        lines = self.steps or self.online
        return round(lines[-1]["step"] / lines[-1]["epoch"]) if lines else 0

    @property
    def total_steps(self) -> int:
        """Number of steps of the complete run; 0 if nothing is logged yet."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def last_step(self) -> int:
        """Number of the last logged step; 0 if nothing is logged yet."""
        return max((lines[-1]["step"] for lines in (self.steps, self.online) if lines), default=0)

    @property
    def finished(self) -> bool:
        """True if the run has results."""
        return self.results is not None

    @property
    def state(self) -> str:
        """Progress of the run as text, for example "step 40 of 100, not finished"."""
        if self.results is not None:
            return f"finished, {self.results.step} steps"
        if not self.last_step:
            return "no step logged yet"
        return f"step {self.last_step} of {self.total_steps}, not finished"

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """Current verdicts on the run, worst first.

        A run without a problem has one more verdict of grade "good". The list is empty if nothing
        is logged yet.
        """
        if not self.last_step:
            return []
        # All other verdicts are about features that were trained without labels.
        if method_entry(self.config.method.name).evaluation != "features":
            return verdicts.check_timings(self.timings)
        facts = verdicts.facts(self.config, self.steps_per_epoch)
        current = verdicts.check_steps(self.steps, facts)
        with_features = [line for line in self.online if "features.rankme" in line]
        if with_features:
            current += verdicts.check_features(with_features[-1], facts)
        current += verdicts.check_online(self.online)
        if self.results is not None:
            current += verdicts.check_results(self.results)
        current += verdicts.check_timings(self.timings)
        if not any(verdict.grade != "good" for verdict in current):
            current.insert(0, self._healthy(facts, bool(with_features)))
        return sorted(current, key=lambda verdict: ("bad", "warning", "good").index(verdict.grade))

    def _healthy(self, facts: Facts, has_features: bool) -> Verdict:
        if self.last_step < facts.applies_from:
            detail = f"losses are evaluated from step {facts.applies_from} on"
            return Verdict("healthy", "good", "too early for a verdict", detail)
        details = ["the loss is off chance level"] if facts.chance is not None else []
        if has_features:
            details.append("the features have not collapsed")
        detail = ", ".join(details) or "no rule applies to the metrics of this run"
        return Verdict("healthy", "good", "no problem found", detail)


def open_run(run: str | pathlib.Path) -> RunFolder:
    """Reads a run folder. The run may still be training.

    Raises:
        UserError: The path is no run folder, its config has another version, or its results cannot
            be read.
    """
    path = existing_run(run)
    metrics = [line for line in _read_lines(path / "metrics.jsonl") if "epoch" in line]
    return RunFolder(
        path=path,
        config=recipes.read_json(path / "config.json"),
        steps=[line for line in metrics if "loss" in line],
        online=[line for line in metrics if "loss" not in line],
        timings=_read_lines(path / "timings.jsonl"),
        results=_read_results(path / "results.json"),
    )


def _read_lines(path: pathlib.Path) -> list[Line]:
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # incomplete: being written now, or cut by a kill
            continue
        if isinstance(line, dict) and _is_valid(line):
            lines.append(line)
    return lines


def _is_valid(line: Line) -> bool:
    """True if all values are numbers or null, and step and epoch are in a possible range."""
    numeric = all(value is None or isinstance(value, int | float) for value in line.values())
    positions = (line.get("step"), line.get("epoch", 1.0))
    # Above 2**53 float64 does not represent every integer: no run has such a step.
    return numeric and all(value is not None and 0 < value < 2**53 for value in positions)


def _read_results(path: pathlib.Path) -> Results | None:
    if not path.is_file():
        return None
    try:
        results = Results.from_json(json.loads(path.read_text()))
        if not isinstance(results.step, int):
            raise ValueError("it contains no results")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}; delete it and run the same command again"
        ) from error
    return results
