"""The tables of ``docs/performance.md`` that come from ``benchmarks/results/step.json``."""

import statistics
from typing import Any

from measuring.tables import markdown, provenance

from step.cases import PARTS
from step.steps import CONTENDERS, HUGE, LABELS


def steps(section: dict[str, Any]) -> str:
    """Whole steps: milliseconds, and this project's speed over the others' in the same rounds."""
    found = {(row["case"], row["contender"]): row for row in section["rows"]}
    rows = {}
    for case in dict.fromkeys(case for case, _ in found):
        for pages in ("", HUGE):
            own, *others = (found[case, name + pages] for name in ("own", *CONTENDERS))
            cells = [f"{row['ms']:,.0f}" if "ms" in row else "-" for row in others]
            cells += [f"{over(own, found[case, name + pages]):.2f}" for name in ("stock", "torch")]
            compiling = [found[case, name + pages]["compile_s"] for name in ("stock", "own")]
            rows[case + pages] = [*cells, "{:.1f} / {:.1f}".format(*compiling)]
    head = ["milliseconds per step of 64 views", *(LABELS[name] for name in CONTENDERS)]
    head += [f"cssl_jax over {LABELS[name]}" for name in ("stock", "torch")]
    head += ["seconds to compile, Flax / cssl_jax"]
    rounds = len(section["rows"][0]["rounds"])
    return markdown(head, rows) + provenance(section, f"medians of {rounds} rounds in turn")


def over(own: dict[str, Any], other: dict[str, Any]) -> float:
    """Median over rounds of the ratio of speeds; NaN where the other was not measured."""
    if "rounds" not in other:
        return float("nan")
    rounds = zip(own["rounds"], other["rounds"], strict=True)
    return statistics.median(theirs["ms"] / ours["ms"] for ours, theirs in rounds)


def convolutions(section: dict[str, Any]) -> str:
    """The convolutions of ResNet-18 one by one, and their sums over the network."""
    rows = {}
    for number, (times, side, channels, out, kernel, stride) in enumerate(section["convolutions"]):
        name = f"{times} x {kernel}x{kernel}, {channels} to {out}, {side} px"
        name += f", stride {stride}" if stride > 1 else ""
        rows[name] = _cells(section, lambda found, number=number: found["ms"][number])
    sums = {name: {"ms": [values]} for name, values in section["sums"].items()}
    rows["sum over the network"] = _cells({"contenders": sums}, lambda found: found["ms"][0])
    head = ["milliseconds for 64 views: " + " / ".join(LABELS[n] for n in CONTENDERS), *PARTS]
    return markdown(head, rows) + provenance(section, "one process each, with huge pages")


def _cells(section: dict[str, Any], values: Any) -> list[str]:
    found = [section["contenders"].get(name, {}) for name in CONTENDERS]
    return [
        " / ".join(f"{values(one)[part]:.1f}" if "ms" in one else "-" for one in found)
        for part in range(len(PARTS))
    ]
