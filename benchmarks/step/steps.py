"""Section ``steps``: the whole train step, float32: stock Flax, this project, PyTorch in turn."""

import argparse
import statistics

from measuring import process
from measuring.report import cpu_environment, target

from cssl_jax.runtime import huge_pages
from step.cases import STEPS

CONTENDERS = ("stock", "own", "torch")
LABELS = {"stock": "Flax's convolution", "own": "cssl_jax", "torch": "PyTorch"}
HUGE = ", huge pages"  # asked of glibc, as the command does for itself
OVER_STOCK, OVER_TORCH, COMPILE = 2.3, 0.65, 1.2


def run(options: argparse.Namespace) -> dict:
    """Every contender in every case; contenders take turns within a round."""
    rows: list[dict] = []
    for case in STEPS:
        names = [name + pages for name in CONTENDERS for pages in ("", HUGE)]
        rounds: dict[str, list[dict]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name, done in rounds.items():
                done.append(measure("step", name, options, case=case))
        rows += [{"case": case, "contender": name, **_row(done)} for name, done in rounds.items()]
    return {"rows": rows, "targets": _targets(rows)}


def measure(function: str, name: str, options: argparse.Namespace, **arguments: object) -> dict:
    """Metrics of one contender in a process of its own."""
    environment = {}
    if name.endswith(HUGE):
        name, environment = name.removesuffix(HUGE), {huge_pages.VARIABLE: huge_pages.OPTION}
    peer = name == "torch"
    if peer and not options.peer_python:
        return {"failed": "not measured: no --peer-python"}
    more = {"imports": options.peer_imports} if peer else {"stock": name == "stock"}
    return process.call(
        f"step.{'peer' if peer else 'own'}.{function}",
        seconds=options.seconds,
        environment=environment | ({} if peer else cpu_environment()),
        timeout=options.timeout,
        **({"python": options.peer_python} if peer else {}),
        **more,
        **arguments,
    )


def _row(rounds: list[dict]) -> dict:
    failed = next((cells["failed"] for cells in rounds if "failed" in cells), None)
    if failed:
        return {"failed": failed}
    names = [name for name in rounds[0] if isinstance(rounds[0][name], float)]
    row = {name: statistics.median(cells[name] for cells in rounds) for name in names}
    return {**row, "rounds": rounds}


def _targets(rows: list[dict]) -> list[dict]:
    found = {(row["case"], row["contender"]): row for row in rows}

    def ratios(case: str, over: str, metric: str) -> list[float | None]:
        """This project's metric over another's in each round, the median; both with huge pages."""
        pair = [found[case, name + HUGE].get("rounds") for name in ("own", over)]
        if None in pair:
            return [None]
        both = zip(*pair, strict=True)
        return [statistics.median(mine[metric] / other[metric] for mine, other in both)]

    first, speed = next(iter(STEPS)), "views_per_s"
    return [
        target(
            f"{first}: speed over Flax's convolution",
            ratios(first, "stock", speed),
            OVER_STOCK,
            at_least=True,
        ),
        *(
            target(
                f"{case}: speed over PyTorch",
                ratios(case, "torch", speed),
                OVER_TORCH,
                at_least=True,
            )
            for case in STEPS
        ),
        *(
            target(
                f"{case}: seconds to compile over stock",
                ratios(case, "stock", "compile_s"),
                COMPILE,
            )
            for case in STEPS
        ),
    ]


def table(section: dict) -> str:
    lines = [f"{'':<25}{'':<32}{'ms':>8}{'views/s':>10}{'compile s':>11}"]
    for row in section["rows"]:
        cells = row.get("failed") or f"{row['ms']:>8.0f}{row['views_per_s']:>10.1f}" + (
            f"{row['compile_s']:>11.1f}" if "compile_s" in row else ""
        )
        lines.append(f"{row['case']:<25}{label(row['contender']):<32}{cells}")
    return "\n".join(lines)


def label(name: str) -> str:
    """Label of a contender."""
    pages = HUGE if name.endswith(HUGE) else ""
    return LABELS[name.removesuffix(HUGE)] + pages
