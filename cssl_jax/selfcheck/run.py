"""What ``cssl-jax selfcheck`` does: the same steps on 1, 2, 4, ... devices, compared."""

import dataclasses
import math
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
# Rule: float64 over all steps; float32 on loss, gradient and statistics of one step. Parameters are
# not judged in float32: Adam and LARS divide by magnitudes that are rounding where they are small.
BOUNDS = {
    "float64": {"loss": 1e-9, "gradient": 1e-9, "params": 1e-9, "statistics": 1e-9},
    "float32": {"loss": 1e-5, "gradient": 1e-5, "statistics": 1e-5},
}
SHARED_DEVICES = 4  # by several processes: two of two each, and four of one each
Case = tuple[str, int, str, int]  # precision, devices, backend, steps


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison with the reference.

    Attributes:
        precision: "float32" or "float64".
        devices: Of all processes.
        processes: That they are shared by.
        backend: Of the step.
        difference: From one device in one process under shard_map; None where there is no outcome.
        trouble: What is wrong, in words; "" is nothing.
    """

    precision: str
    devices: int
    processes: int
    backend: str
    difference: Difference | None
    trouble: str


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """What ``cssl-jax selfcheck`` prints.

    Attributes:
        changes: What was reduced, in words.
        data: What was trained on, and what else differs from the recipe, in words.
        device: That it ran on, in words.
        steps: In float64.
        rows: Of the table.
        left_out: What could not be tried, in words.
    """

    changes: list[str]
    data: str
    device: str
    steps: int
    rows: list[Row]
    left_out: list[str]

    @property
    def passed(self) -> bool:
        """Nothing is wrong with any row."""
        return not any(row.trouble for row in self.rows)

    def __str__(self) -> str:
        return "\n".join(_words(self))


def selfcheck(
    config: Config,
    *,
    devices: int = 8,
    steps: int = 20,
    full: bool = False,
    timeout: float = 900.0,
    progress: Callable[[str], None] = lambda text: None,
) -> SelfCheck:
    """Takes steps of a run on 1, 2, 4, ... devices, under both backends and in several processes.

    Everything runs in processes of its own, on the accelerators that are here where these are two
    or more, else on simulated CPU devices.

    Args:
        config: The run; see ``recipes.load``.
        devices: The most to try.
        steps: In float64; in float32 it is one.
        full: Do not reduce the recipe.
        timeout: Seconds for each group of processes.
        progress: Told what has been done.

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
    found = subprocesses.devices(timeout)
    simulated = found["platform"] == "cpu" or found["count"] < 2
    devices = devices if simulated else min(devices, found["count"])
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
        cache = config.runtime.compile_cache or str(cache_folder("compile"))
        runtime = dataclasses.replace(config.runtime, compile_cache=cache)
        config = dataclasses.replace(config, runtime=runtime)
        write_text(folder / "config.json", recipes.to_json(config))
        trials = _Trials(folder, simulated, timeout, progress)
        plan, left_out = planned(found, simulated, devices, steps)
        rows = [row for processes, cases in plan for row in trials.run(processes, cases)]
    kind = f"{devices} simulated CPU devices" if simulated else f"{devices} x {found['kind']}"
    return SelfCheck(changes, data, kind, steps, rows, left_out)


def planned(
    found: dict[str, Any], simulated: bool, devices: int, steps: int
) -> tuple[list[tuple[int, list[Case]]], list[str]]:
    """(processes and what they try together, the reference first; what is left out, in words)."""
    left_out = []
    taken = {"float32": 1, "float64": steps}
    if not simulated and found["platform"] == "tpu":
        del taken["float64"]
        left_out.append("float64: a TPU has none; JAX_PLATFORMS=cpu checks it on simulated devices")
    powers = (2**i for i in range(devices.bit_length()))  # among which the batch divides
    counts = [*(n for n in powers if n < devices and devices % n == 0), devices]
    cases = [
        (precision, n, backend, some)
        for precision, some in taken.items()
        for backend in ("shard_map", "pmap")
        for n in counts
        # pmap is the same compiled step: in float64 its longest trial does.
        if (precision, backend) != ("float64", "pmap") or n == devices
    ]
    plan = [(1, cases)]
    if simulated:
        total = max(n for n in counts if n <= SHARED_DEVICES)
        shared = [("float64", total, "shard_map", steps)]  # its first step has all of float32's
        plan += [(n, shared) for n in (2, 4) if n <= total and total % n == 0]
    else:
        left_out.append(
            "several processes: an accelerator belongs to one; JAX_PLATFORMS=cpu checks them on "
            "simulated devices"
        )
    if simulated and found["platform"] != "cpu":
        left_out.append(f"the one {found['kind']} here: there is nothing to compare it with")
    return plan, left_out


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Runs cases in processes of their own, and compares each with the first that ever ran."""

    folder: pathlib.Path
    simulated: bool
    timeout: float
    progress: Callable[[str], None]

    def run(self, processes: int, cases: Sequence[Case]) -> list[Row]:
        variables = subprocesses.environment(simulated=self.simulated)
        # Of the index of pictures that soon go.
        variables["CSSL_JAX_CACHE"] = str(self.folder / "cache")
        most = max(devices for _, devices, _, _ in cases)
        shared = {
            "folder": str(self.folder),
            "cases": cases,
            "cpu_devices": most // processes if self.simulated else 0,
            "processes": processes,
            "coordinator": f"127.0.0.1:{_free_port()}" if processes > 1 else "",
        }
        told = subprocesses.run(
            CHILD,
            [{**shared, "rank": rank} for rank in range(processes)],
            variables=variables,
            timeout=self.timeout,
            heard=lambda line: self.progress(f"{line['words']}: {line['seconds']:.1f} s"),
        )
        return [self._row(processes, case, line) for case, line in zip(cases, told, strict=True)]

    def _row(self, processes: int, case: Case, line: dict[str, Any]) -> Row:
        precision, devices, backend, _ = case
        row = Row(precision, devices, processes, backend, None, line["failed"])
        if row.trouble:
            return row
        reference = _load(self.folder, case_name(precision, 1, "shard_map", 1), 1)
        outcome = _load(self.folder, case_name(precision, devices, backend, processes), processes)
        return judge(row, outcome, reference)


def _load(folder: pathlib.Path, name: str, processes: int) -> Outcome:
    """An outcome; the examples are those of all its processes."""
    parts = []
    for rank in range(processes):
        with np.load(folder / f"{name}_{rank}.npz", allow_pickle=False) as content:
            parts.append(Outcome(**content))
    examples = np.concatenate([part.examples for part in parts], axis=1)
    return parts[0]._replace(examples=np.sort(examples, axis=1))


def judge(row: Row, outcome: Outcome, reference: Outcome) -> Row:
    """The row with its difference, and what is wrong with it."""
    if not np.array_equal(outcome.examples, reference.examples):
        return dataclasses.replace(row, trouble="other examples than in the reference")
    difference = compare(outcome, reference)
    bounds = BOUNDS[row.precision]
    # Not "greater than": what is not a number is beyond every bound.
    beyond = [name for name, most in bounds.items() if not getattr(difference, name) <= most]
    trouble = ", ".join(beyond) + " beyond the bound" if beyond else ""
    if "gradient" in beyond and abs(difference.scale - 1) > 0.01:
        trouble += f"; the gradient is {difference.scale:.3g} times the reference's"
    return dataclasses.replace(row, difference=difference, trouble=trouble)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# -------------------------------------------------------------------------------------------- words


def _words(check: SelfCheck) -> list[str]:
    lines = [f"changed   {change}" for change in check.changes]
    lines += [f"left out  {what}" for what in check.left_out]
    lines += [
        f"data      {check.data}",
        f"devices   {check.device}; each row against 1 device, 1 process, shard_map",
        f"steps     float32: 1, bound {BOUNDS['float32']['gradient']:g} (parameters not judged); "
        f"float64: {check.steps}, bound {BOUNDS['float64']['gradient']:g}",
        "",
        f"{'precision':<11}{'devices':>7}{'processes':>11}  {'backend':<11}{'loss':>9}"
        f"{'gradient':>10}{'params':>9}{'statistics':>12}  verdict",
    ]
    for row in check.rows:
        shown = "" if row.difference is None else (
            f"{row.difference.loss:>9.1e}{row.difference.gradient:>10.1e}"
            f"{row.difference.params:>9.1e}{row.difference.statistics:>12.1e}"
        )  # fmt: skip
        lines.append(
            f"{row.precision:<11}{row.devices:>7}{row.processes:>11}  {row.backend:<11}{shown:>40}"
            f"  {'FAILED: ' + row.trouble if row.trouble else 'same'}"
        )
    failed = sum(bool(row.trouble) for row in check.rows)
    verdict = (
        f"FAILED: {failed} of {len(check.rows)} trials computed something else."
        if failed
        else "PASSED: what this recipe computes does not depend on the devices."
    )
    return [
        *lines,
        "",
        "largest differences, relative to the reference's largest magnitude",
        verdict,
    ]


def say(text: str) -> None:
    """Progress, for a person who waits."""
    print(text, file=sys.stderr, flush=True)
