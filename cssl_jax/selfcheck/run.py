"""Implements ``cssl-jax selfcheck``: runs and compares the same steps on 1, 2, 4, ... devices."""

import dataclasses
import math
import os
import pathlib
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.files import cache_folder, write_text
from cssl_jax.runtime import subprocesses
from cssl_jax.selfcheck.reduced_config import examples_of, reduced
from cssl_jax.selfcheck.short_run import Difference, Outcome, compare
from cssl_jax.selfcheck.worker import case_name

CHILD = "cssl_jax.selfcheck.worker"
# Bounds on the differences: in float64 after all steps, in float32 after one step. Parameters and
# the method's state, which may copy them, have no bound in float32: Adam and LARS divide by
# magnitudes, and small ones are mostly rounding error.
BOUNDS = {
    "float64": dict.fromkeys(("loss", "gradient", "params", "statistics", "method_state"), 1e-9),
    "float32": {"loss": 1e-5, "gradient": 1e-5, "statistics": 1e-5},
}
# Maximum devices of the runs in several processes: two processes with two devices each, and four
# with one each.
SHARED_DEVICES = 4
Case = tuple[str, int, str, int]  # precision, devices, backend, steps


@dataclasses.dataclass(frozen=True)
class Row:
    """Comparison of one trial with the reference: one device, one process, shard_map.

    Attributes:
        precision: "float32" or "float64".
        devices: Number of devices of all processes.
        processes: Number of processes that the devices are split over.
        backend: Backend of the step: "shard_map" or "pmap".
        difference: Difference from the reference; None if the trial has no outcome.
        problem: Description of what is wrong; "" if nothing is.
    """

    precision: str
    devices: int
    processes: int
    backend: str
    difference: Difference | None
    problem: str


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """Results of ``cssl-jax selfcheck``; ``str`` gives the report.

    Attributes:
        changes: Descriptions of the fields that were reduced.
        data: Description of the training examples and of other differences from the recipe.
        device: Number and kind of the devices.
        steps: Number of steps in float64; float32 takes one.
        rows: Comparisons with the reference.
        skipped: Descriptions of the checks that the machine cannot run.
    """

    changes: list[str]
    data: str
    device: str
    steps: int
    rows: list[Row]
    skipped: list[str]

    @property
    def passed(self) -> bool:
        """Whether no comparison has a problem."""
        return not any(row.problem for row in self.rows)

    def __str__(self) -> str:
        return "\n".join(_report_lines(self))


def selfcheck(
    config: Config,
    *,
    devices: int = 8,
    steps: int = 20,
    full: bool = False,
    timeout: float = 900.0,
    progress: Callable[[str], None] = lambda text: None,
) -> SelfCheck:
    """Compares a run's steps on 1, 2, 4, ... devices, for both backends and several processes.

    All steps run in child processes: on this machine's accelerators if it has two or more, else on
    simulated CPU devices.

    Args:
        config: Config of the run; see ``recipes.load``.
        devices: Maximum number of devices.
        steps: Number of steps in float64; float32 takes one.
        full: Whether to keep the recipe's own encoder, batch and size instead of reducing them.
        timeout: Seconds for each group of processes.
        progress: Called with a line of text after each trial.

    Raises:
        UserError: The config, the data and the devices do not fit each other.
        RunError: A process failed or took too long.
    """
    if devices < 2 or steps < 1 or not 0 < timeout < math.inf:
        raise UserError(
            f"--devices {devices} --steps {steps} --timeout {timeout:g}; give at least 2 devices, "
            "1 step and a positive time"
        )
    config = recipes.canonical(config)
    machine = subprocesses.devices(timeout)
    simulated = machine["platform"] == "cpu" or machine["count"] < 2
    devices = devices if simulated else min(devices, machine["count"])
    changes: list[str] = []
    if not full:
        config, changes = reduced(config, devices)
    elif config.train.batch_size % devices:
        raise UserError(
            f"global batch {config.train.batch_size} does not divide over --devices {devices}; "
            "give a number that divides it"
        )
    with tempfile.TemporaryDirectory(prefix="cssl-jax-selfcheck-") as name:
        folder = pathlib.Path(name)
        config, data = examples_of(config, folder / "data")
        # Children have a temporary CSSL_JAX_CACHE, and the rest of this process's environment.
        if not config.runtime.compile_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            config = config.replace({"runtime.compile_cache": str(cache_folder("compile"))})
        write_text(folder / "config.json", recipes.to_json(config))
        trials = _Trials(folder, simulated, timeout, progress)
        plan, skipped = plan_trials(machine, simulated, devices, steps)
        rows = [row for processes, cases in plan for row in trials.run(processes, cases)]
    kind = f"{devices} simulated CPU devices" if simulated else f"{devices} x {machine['kind']}"
    return SelfCheck(changes, data, kind, steps, rows, skipped)


def plan_trials(
    machine: dict[str, Any], simulated: bool, devices: int, steps: int
) -> tuple[list[tuple[int, list[Case]]], list[str]]:
    """Trials that a machine can run.

    Args:
        machine: Platform, kind and count of the machine's devices, see ``subprocesses.devices``.
        simulated: Whether the trials run on simulated CPU devices.
        devices: Maximum number of devices.
        steps: Number of steps in float64.

    Returns:
        (number of processes, cases that they run) for each group of processes, the reference first;
        and descriptions of the checks that the machine cannot run.
    """
    skipped = []
    steps_of = {"float32": 1, "float64": steps}
    if not simulated and machine["platform"] == "tpu":
        del steps_of["float64"]
        skipped.append(
            "float64: TPUs do not support it; JAX_PLATFORMS=cpu checks it on simulated devices"
        )
    powers = (2**i for i in range(devices.bit_length()))  # the reduced batch divides over each
    counts = [*(n for n in powers if n < devices and devices % n == 0), devices]
    cases = [
        (precision, n, backend, number)
        for precision, number in steps_of.items()
        for backend in ("shard_map", "pmap")
        for n in counts
        # pmap compiles the same step: in float64 the trial with the most devices suffices.
        if (precision, backend) != ("float64", "pmap") or n == devices
    ]
    plan = [(1, cases)]
    if simulated:
        total = max(n for n in counts if n <= SHARED_DEVICES)
        shared = [("float64", total, "shard_map", steps)]  # covers the single step of float32
        plan += [(n, shared) for n in (2, 4) if n <= total and total % n == 0]
    else:
        skipped.append(
            "several processes: only one process can use an accelerator; JAX_PLATFORMS=cpu checks "
            "them on simulated devices"
        )
    if simulated and machine["platform"] != "cpu":
        skipped.append(f"the only {machine['kind']}: there is no second one to compare it with")
    return plan, skipped


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Runs cases in child processes and compares each outcome with the reference's.

    Attributes:
        folder: Folder with config.json, in which the children write outcomes.
        simulated: Whether the children simulate CPU devices.
        timeout: Seconds for each group of processes.
        progress: Called with a line of text after each case.
    """

    folder: pathlib.Path
    simulated: bool
    timeout: float
    progress: Callable[[str], None]

    def run(self, processes: int, cases: Sequence[Case]) -> list[Row]:
        """Runs the cases in one group of processes; returns one comparison per case."""
        variables = subprocesses.environment(simulated=self.simulated)
        # The index of the temporary images must not fill the user's cache.
        variables["CSSL_JAX_CACHE"] = str(self.folder / "cache")
        total = max(devices for _, devices, _, _ in cases)
        shared = {
            "folder": str(self.folder),
            "cases": cases,
            "cpu_devices": total // processes if self.simulated else 0,
            "processes": processes,
            "coordinator": f"127.0.0.1:{_free_port()}" if processes > 1 else "",
        }
        lines = subprocesses.run(
            CHILD,
            [{**shared, "rank": rank} for rank in range(processes)],
            variables=variables,
            timeout=self.timeout,
            on_line=lambda line: self.progress(f"{line['trial']}: {line['seconds']:.1f} s"),
        )
        return [self._row(processes, case, line) for case, line in zip(cases, lines, strict=True)]

    def _row(self, processes: int, case: Case, line: dict[str, Any]) -> Row:
        precision, devices, backend, _ = case
        row = Row(precision, devices, processes, backend, None, line["problem"])
        if row.problem:
            return row
        reference = _load(self.folder, case_name(precision, 1, "shard_map", 1), 1)
        outcome = _load(self.folder, case_name(precision, devices, backend, processes), processes)
        return check_outcome(row, outcome, reference)


def _load(folder: pathlib.Path, name: str, processes: int) -> Outcome:
    """Outcome of a trial, with the examples of all its processes sorted per step."""
    outcomes = []
    for rank in range(processes):
        with np.load(folder / f"{name}_{rank}.npz", allow_pickle=False) as content:
            outcomes.append(Outcome(**content))
    examples = np.concatenate([outcome.examples for outcome in outcomes], axis=1)
    # Everything but the examples is replicated: one process's values are those of all.
    return outcomes[0]._replace(examples=np.sort(examples, axis=1))


def check_outcome(row: Row, outcome: Outcome, reference: Outcome) -> Row:
    """The row, completed with the outcome's difference from the reference and its problem.

    Args:
        row: Comparison without a difference.
        outcome: Outcome of the trial.
        reference: Outcome of the reference in the same precision.
    """
    if not np.array_equal(outcome.examples, reference.examples):
        return dataclasses.replace(row, problem="other examples than in the reference")
    difference = compare(outcome, reference)
    bounds = BOUNDS[row.precision]
    # "not <=" instead of ">", so that NaN is beyond every bound.
    beyond = [name for name, bound in bounds.items() if not getattr(difference, name) <= bound]
    problem = ", ".join(beyond) + " beyond the bound" if beyond else ""
    if "gradient" in beyond and abs(difference.scale - 1) > 0.01:
        problem += f"; the gradient is {difference.scale:.3g} times the reference's"
    return dataclasses.replace(row, difference=difference, problem=problem)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ------------------------------------------------------------------------------------------- report


def _report_lines(check: SelfCheck) -> list[str]:
    lines = [f"changed   {change}" for change in check.changes]
    lines += [f"skipped   {text}" for text in check.skipped]
    lines += [
        f"data      {check.data}",
        f"devices   {check.device}; each row compared with 1 device, 1 process, shard_map",
        f"steps     float32: 1, bound {BOUNDS['float32']['gradient']:g} (parameters not checked); "
        f"float64: {check.steps}, bound {BOUNDS['float64']['gradient']:g}",
        "",
        f"{'precision':<11}{'devices':>7}{'processes':>11}  {'backend':<11}{'loss':>9}"
        f"{'gradient':>10}{'params':>9}{'statistics':>12}{'method':>9}  verdict",
    ]
    for row in check.rows:
        values = "" if row.difference is None else (
            f"{row.difference.loss:>9.1e}{row.difference.gradient:>10.1e}"
            f"{row.difference.params:>9.1e}{row.difference.statistics:>12.1e}"
            f"{row.difference.method_state:>9.1e}"
        )  # fmt: skip
        lines.append(
            f"{row.precision:<11}{row.devices:>7}{row.processes:>11}  {row.backend:<11}{values:>49}"
            f"  {'FAILED: ' + row.problem if row.problem else 'same'}"
        )
    failed = sum(bool(row.problem) for row in check.rows)
    verdict = (
        f"FAILED: {failed} of {len(check.rows)} trials computed different results."
        if failed
        else "PASSED: the results of this recipe do not depend on the devices."
    )
    return [
        *lines,
        "",
        "largest differences, relative to the reference's largest magnitude",
        verdict,
    ]


def say(text: str) -> None:
    """Prints a line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)
