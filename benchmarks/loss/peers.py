"""Section ``peers``: loss and gradient beside other libraries', in interleaved rounds."""

import argparse
import statistics

from measuring import process
from measuring.report import cpu_environment, gigabytes, megabytes, span, target

from loss.contenders import LABELS

OURS = "tiled"
ABSENT = "not measured: no --peer-python"
METRICS = ("time_s", "fastest_s", "compile_s", "memory_bytes", "running_bytes", "baseline_bytes")


def run(options: argparse.Namespace) -> dict:
    """Every contender at every size; contenders take turns within a round, rounds repeat.

    So a busy machine slows all of them, and the ratio of a round compares neighbours in time.
    """
    rows: list[dict] = []
    failed: dict[str, str] = {}
    for pairs in options.pairs:
        rounds: dict[str, list[dict]] = {name: [] for name in options.contenders}
        for _ in range(options.rounds):
            for name, done in rounds.items():
                if name in failed:
                    continue
                measured = _measure(name, pairs, options)
                if "failed" in measured:
                    failed[name] = f"at {pairs:,} pairs: {measured['failed']}"
                    done[:] = [measured]
                else:
                    done.append(measured)
        rows += [_row(name, pairs, done, failed.get(name)) for name, done in rounds.items()]
        _refuse_other_losses([row for row in rows if row["pairs"] == pairs])
    ratios = [ratio for pairs in options.pairs for ratio in _ratios(rows, pairs)]
    return {"rows": rows, "ratios": ratios, "targets": _targets(ratios, options.pairs)}


def _measure(name: str, pairs: int, options: argparse.Namespace) -> dict:
    peer = {}
    if name == "lightly":
        if not options.peer_python:
            return {"failed": ABSENT}
        peer = {"python": options.peer_python, "imports": options.peer_imports}
    return process.call(
        "loss.contenders.measure",
        contender=name,
        pairs=pairs,
        seconds=options.seconds,
        environment=cpu_environment(),
        timeout=options.timeout,
        memory_limit=options.memory_limit,
        **peer,
    )


def _row(name: str, pairs: int, rounds: list[dict], failed: str | None) -> dict:
    row = {"pairs": pairs, "contender": name}
    if failed:
        if ABSENT in failed:
            return {**row, "failed": ABSENT}
        here = rounds and "failed" in rounds[0]
        return {**row, "failed": rounds[0]["failed"] if here else f"not tried; {failed}"}
    return {
        **row,
        **{key: statistics.median(measured[key] for measured in rounds) for key in METRICS},
        "round_times_s": [measured["time_s"] for measured in rounds],
        "runs": [measured["runs"] for measured in rounds],
        **{key: rounds[0][key] for key in ("loss", "gradient_norm", "versions")},
    }


def _refuse_other_losses(rows: list[dict]) -> None:
    """A contender that computes something else is no contender; the first that runs is the norm."""
    measured = [row for row in rows if "failed" not in row]
    for row in measured[1:]:
        for key in ("loss", "gradient_norm"):
            # Float32 sums of millions of terms in another order differ by less.
            if abs(row[key] - measured[0][key]) > 1e-4 * abs(measured[0][key]):
                row["failed"] = f"another {key}: {row[key]:.6g} for {measured[0][key]:.6g}"


def _ratios(rows: list[dict], pairs: int) -> list[dict]:
    """Ours over each other contender at one size; None where there is nothing to compare with."""
    here = {row["contender"]: row for row in rows if row["pairs"] == pairs}
    ours = here.get(OURS, {"failed": "excluded"})
    ratios = []
    for name, other in here.items():
        if name == OURS:
            continue
        ratio = {"pairs": pairs, "against": name, "time": None, "memory": None}
        if "failed" not in ours and "failed" not in other:
            turns = zip(ours["round_times_s"], other["round_times_s"], strict=True)
            by_round = [mine / theirs for mine, theirs in turns]
            ratio |= {
                "time": ours["time_s"] / other["time_s"],
                "time_range": [min(by_round), max(by_round)],
                "fastest": ours["fastest_s"] / other["fastest_s"],
                "memory": ours["memory_bytes"] / other["memory_bytes"],
                "running": ours["running_bytes"] / max(other["running_bytes"], 1),
            }
        ratios.append(ratio)
    return ratios


def _targets(ratios: list[dict], sizes: list[int]) -> list[dict]:
    def against(name: str, key: str, chosen: list[int]) -> list[float | None]:
        found = {r["pairs"]: r[key] for r in ratios if r["against"] == name}
        return [found.get(pairs) for pairs in chosen]

    large, largest = [n for n in sizes if n >= 2048], [n for n in sizes if n == 8192]
    all_sizes = ", ".join(f"{pairs:,}" for pairs in sizes)
    return [
        target("time / lightly's, from 2,048 pairs", against("lightly", "time", large), 0.3),
        target(f"time / dense JAX's, {all_sizes} pairs", against("jax", "time", sizes), 1.05),
        target("memory / lightly's, 8,192 pairs", against("lightly", "memory", largest), 0.15),
        target("time / own dense's, 8,192 pairs", against("dense", "time", largest), 1.0),
        # What the compiler takes is the same at any size, and stays behind in the process.
        target("memory running / own dense's, 8,192", against("dense", "running", largest), 0.1),
        target("memory with compiling / own dense's", against("dense", "memory", largest), 0.1),
    ]


def table(section: dict) -> str:
    head = f"{'pairs':>7}  {'contender':<20}{'time, s':>9} {'(rounds)':<17}"
    lines = [f"{head}{'memory':>9}{'running':>10}{'in all':>9}{'compile, s':>12}{'loss':>10}"]
    for row in section["rows"]:
        name = f"{row['pairs']:>7,}  {LABELS[row['contender']]:<20}"
        if "failed" in row:
            lines.append(f"{name}  {row['failed']}")
            continue
        cells = f"{row['time_s']:>9.4f} {span(row['round_times_s']):<17}"
        sizes = (megabytes(row["memory_bytes"]), megabytes(row["running_bytes"]))
        whole = gigabytes(row["baseline_bytes"] + row["memory_bytes"])
        compiling = f"{row['compile_s']:>12.2f}{row['loss']:>10.5f}"
        lines.append(f"{name}{cells}{sizes[0]:>9}{sizes[1]:>10}{whole:>9}{compiling}")
    lines += [
        "memory: peak of the process over what libraries and data take, compiling included; "
        "running: over what the compiler has left behind",
        "",
        f"{'pairs':>7}  {LABELS[OURS] + ' over':<20}{'time':>9} {'(rounds)':<17}"
        f"{'fastest':>9}{'memory':>9}{'running':>9}",
    ]
    for ratio in section["ratios"]:
        name = f"{ratio['pairs']:>7,}  {LABELS[ratio['against']]:<20}"
        if ratio["time"] is None:
            lines.append(f"{name}{'-':>9} {'':<17}{'-':>9}{'-':>9}{'-':>9}")
        else:
            cells = f"{ratio['time']:>9.3f} {span(ratio['time_range']):<17}"
            measured = "".join(f"{ratio[k]:>9.3f}" for k in ("fastest", "memory", "running"))
            lines.append(f"{name}{cells}{measured}")
    return "\n".join(lines)
